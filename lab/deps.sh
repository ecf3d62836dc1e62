#!/bin/bash
# deps.sh rust|tsan|lab|networks|valgrind|bench|update: brings what builds, the lab, its networks and measurements need on Debian; silent when all is there.
# It installs packages as root, or with sudo; elsewhere than on Debian it says what is missing.
set -euo pipefail
say() { echo "deps: $*" >&2; }
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
toolchain=1.95

as_root() {
  if ((EUID == 0)); then "$@"
  elif command -v sudo > /dev/null; then sudo "$@"
  else say "this needs root, and there is no sudo: $*"; exit 1
  fi
}

# apt, quietly; the output is shown where it fails.
apt_get() {
  local log rc=0
  log=$(mktemp)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" > "$log" 2>&1 < /dev/null || rc=$?
  ((rc == 0)) || cat "$log" >&2
  rm -f "$log"
  return $rc
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -q '^installed'; }

# install [-t SUITE] PACKAGE...: those that are missing.
install() {
  local suite=() missing=() p
  if [[ $1 == -t ]]; then suite=(-t "$2"); shift 2; fi
  for p in "$@"; do installed "$p" || missing+=("$p"); done
  ((${#missing[@]})) || return 0
  command -v apt-get > /dev/null || { say "no apt-get here; these Debian packages are needed: ${missing[*]}"; exit 1; }
  say "installing ${missing[*]}"
  apt_get install --no-install-recommends "${suite[@]}" "${missing[@]}" ||
    { apt_get update && apt_get install --no-install-recommends "${suite[@]}" "${missing[@]}"; }
}

# QEMU: 9.2 or later, for reconnect-ms. Debian 12 has it in bookworm-backports.
qemu_new_enough() {
  local v
  v=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  [[ $v ]] || return 1
  local major minor
  read -r major minor <<< "$v"
  ((major > 9 || (major == 9 && minor >= 2)))
}

qemu() {
  qemu_new_enough && return
  if [[ $(. /etc/os-release; echo "${VERSION_CODENAME:-}") == bookworm ]]; then
    if ! apt-cache policy | grep -q bookworm-backports; then
      say "adding bookworm-backports to apt's sources, for QEMU"
      as_root tee /etc/apt/sources.list.d/bookworm-backports.sources > /dev/null <<'S'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
S
      apt_get update
    fi
    say "installing QEMU from bookworm-backports"
    apt_get install --no-install-recommends -t bookworm-backports qemu-system-x86
  else
    say "installing QEMU"
    apt_get install --no-install-recommends qemu-system-x86
  fi
  qemu_new_enough || { say "QEMU 9.2 or later is needed, and this system has none"; exit 1; }
}

rust_new_enough() {
  local v
  v=$(cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
  [[ $v && $(printf '%s\n' "$toolchain" "$v" | sort -V | head -1) == "$toolchain" ]]
}

rust() {
  # A C compiler is Rust's linker.
  install gcc libc6-dev
  rust_new_enough && return
  if ! command -v rustup > /dev/null && apt-cache policy rustup 2> /dev/null | grep -q 'Candidate: [0-9]'; then
    install rustup                              # Debian 13 and later
  fi
  if command -v rustup > /dev/null; then
    say "installing Rust by rustup"
    rustup toolchain install stable --profile minimal -c clippy -c rustfmt >&2 && rustup default stable >&2 || true
  else
    # Debian 12: the installer of https://rustup.rs, into ~/.cargo and ~/.rustup.
    say "installing rustup and Rust into your home directory"
    install ca-certificates curl
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
      sh -s -- -y --no-modify-path --profile minimal -c clippy -c rustfmt >&2 || true
    hash -r
  fi
  rust_new_enough && return
  say "Rust $toolchain or later is needed, and rustup could not install it: see https://rustup.rs"
  exit 1
}

# The sources of the standard library, which has to be built anew for the thread sanitizer.
tsan() {
  rust
  local library
  library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
  [[ -d $library ]] && return
  command -v rustup > /dev/null || { say "the sources of Rust's standard library are needed in $library"; exit 1; }
  say "installing the sources of Rust's standard library by rustup"
  rustup component add rust-src >&2
}

# What `make bench` compares with, and pages of 2 MiB for it: 3.5 GiB.
bench() {
  install dpdk-dev gcc iproute2 libc6-dev openvswitch-switch-dpdk pkg-config python3
  local pages=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
  (($(< $pages) >= 1792)) && return
  say "reserving 3.5 GiB of memory as huge pages, until the next start of the system"
  echo 1792 | as_root tee $pages > /dev/null
  (($(< $pages) >= 1792)) || { say "there is not so much free memory in one piece"; exit 1; }
}

networks() { install busybox-static iproute2 nftables python3; }

case ${1:-} in
  rust) rust ;;
  tsan) tsan ;;
  lab)
    qemu
    networks
    install binutils cpio ethtool gcc iperf3 ipxe-qemu kmod libc6-dev lz4 xz-utils zstd
    ;;
  networks) networks ;;
  bench) bench ;;
  # It needs the C library's symbols.
  valgrind) install valgrind libc6-dbg ;;
  update) apt_get update ;;
  *) say "usage: deps.sh rust|tsan|lab|networks|valgrind|bench|update"; exit 2 ;;
esac
