#!/bin/bash
# mkinitrd.sh KERNELTREE OUT.cpio MODULE... [-- PROGRAM[:DEST]...]
# A small initramfs for test guests: busybox, the named modules of an unpacked linux-image package with
# all that they depend on, and programs of this machine with their shared libraries.
#
# It is not compressed: unpacking under emulation costs more than loading. The kernel takes archives one
# after the other, so a check adds files with `cat guest.cpio more.cpio`.
set -euo pipefail
tree=$(readlink -f "$1") out=$(readlink -m "$2")
shift 2
PATH=$PATH:/usr/sbin:/sbin
modules=()
while (($#)) && [[ $1 != -- ]]; do modules+=("$1"); shift; done
(($#)) && shift
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,etc,lib/modules,lib64,usr/bin,usr/sbin,usr/lib}
echo 'root:x:0:0::/:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
: > "$root/etc/functions"
: > "$root/etc/modload"

cp "$(command -v busybox)" "$root/bin/busybox"
applets=$(busybox --list)
for a in $applets; do [[ $a == busybox ]] || ln -s /bin/busybox "$root/bin/$a"; done

# Dependencies are resolved here; /etc/modload has the order to load them in.
moddir=$(shopt -s nullglob; set -- "$tree"/{usr/,}lib/modules/*; echo "$1")
version=$(basename "$moddir")
base=${moddir%/lib/modules/*}
[[ -e $moddir/modules.dep ]] || depmod -b "$base" "$version"
for m in "${modules[@]}"; do
  modprobe -d "$base" -S "$version" --show-depends "$m" | while read -r kind path _; do
    [[ $kind == insmod ]] || continue           # "builtin": nothing to copy
    name=$(basename "$path"); name=${name%.xz}; name=${name%.zst}
    [[ -e $root/lib/modules/$name ]] && continue
    case $path in
      *.xz) xz -dc "$path" ;;
      *.zst) zstd -qdc "$path" ;;
      *) cat "$path" ;;
    esac > "$root/lib/modules/$name"
    strip --strip-debug "$root/lib/modules/$name"
    echo "$name" >> "$root/etc/modload"
  done
done

for p in "$@"; do
  src=${p%%:*} dst=/usr/bin/$(basename "${p%%:*}")
  [[ $p == *:* ]] && dst=${p#*:}
  src=$(command -v "$src")
  install -D -m 755 "$(readlink -f "$src")" "$root$dst"
  # busybox's shell runs its own applets before anything in PATH; only a function comes first.
  n=$(basename "$dst")
  if grep -qx -- "$n" <<< "$applets"; then echo "$n() { $dst \"\$@\"; }" >> "$root/etc/functions"; fi
  libraries=$(ldd "$src" 2>/dev/null || true)
  if grep 'not found' <<< "$libraries" >&2; then echo "lab: $src lacks these libraries" >&2; exit 1; fi
  sed -nE 's|^[^/]*(/[^ ]+) \(.*|\1|p' <<< "$libraries" | sort -u | while read -r l; do
    # Where LD_LIBRARY_PATH led to is nowhere in the guest.
    to=$l
    [[ $l =~ ^(/usr)?/lib ]] || to=/usr/lib/$(basename "$l")
    [[ -e $root$to ]] || install -D -m 755 "$(readlink -f "$l")" "$root$to"
  done
done

cat > "$root/init" <<'I'
#!/bin/sh
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for m in $(cat /etc/modload); do insmod /lib/modules/$m; done
ip link set lo up
stty -echo -F /dev/console 2>/dev/null
echo "@@ READY Linux $(uname -r) uptime=$(cut -d' ' -f1 /proc/uptime)"
# Commands come from the console, a line each (at most 4095 bytes). Not an interactive shell: no
# prompt, no chatter about jobs. A syntax error ends the inner shell, not init.
while :; do
  sh -c '. /etc/functions; while IFS= read -r line; do eval "$line"; done'
  echo "@@R2"
done
I
chmod 755 "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) > "$out"
