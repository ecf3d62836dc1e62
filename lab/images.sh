#!/bin/bash
# images.sh DIR [host]: the kernel and guest images of the lab, made once in DIR (about 10 s and 30 MB of
# downloads). Nothing is installed; deps.sh has brought what this needs.
#
#   vmlinux    Debian's cloud kernel as an ELF file      vmlinuz    the same as it boots from firmware
#   guest.cpio busybox, virtio-net and a few programs    boot.cpio  that, and kexec
#   bare.elf   the bare-metal guest
#
# With `host` also a guest that is a host with a NIC (another 70 MB), in which evb runs:
#
#   host.vmlinux  Debian's full kernel    host.cpio  drivers of igb and of its functions, macvtap, vfio, 9p
#   primary.cpio  for a guest in that guest, which is given a function: it starts with that kernel, too
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
PATH=$PATH:/usr/sbin:/sbin

# The kernel named by the meta package today, as in 6.1.0-41.
version() {
  apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/.*Depends: linux-image-\([0-9].*\)-cloud-amd64$/\1/p' | head -1
}

# unpack PACKAGE DIR: downloads a Debian package and unpacks it, without installing it.
unpack() {
  rm -rf "$2" deb && mkdir deb
  if ! (cd deb && apt-get download -q "$1" > log 2>&1); then
    "$here/deps.sh" update                      # an old package list names files that are gone
    (cd deb && apt-get download -q "$1" > log 2>&1) || { cat deb/log >&2; return 1; }
  fi
  dpkg -x deb/*.deb "$2"
  rm -rf deb
}

# The stamp makes this a no-op while neither the scripts nor their inputs have changed.
stamp=$(cat "$here"/{images,mkinitrd}.sh "$here/extract_vmlinux.py" "$here"/bare/* | sha256sum)

host() {
  [[ -f host.stamp && $(< host.stamp) == "$stamp" ]] && return
  echo "lab: making the image of a host in $PWD"
  if [[ ! -d host-kernel/boot ]]; then unpack "linux-image-$(< kernel/version)-amd64" host-kernel; fi
  python3 "$here/extract_vmlinux.py" host-kernel/boot/vmlinuz-* host.vmlinux
  "$here/mkinitrd.sh" host-kernel host.cpio virtio_pci virtio_net af_packet 8021q igb igbvf macvtap tun \
    vfio-pci vfio_iommu_type1 veth bridge 9p 9pnet_virtio nft_masq nft_chain_nat -- ethtool ip:/usr/sbin/ip
  "$here/mkinitrd.sh" host-kernel primary.cpio virtio_pci virtio_net af_packet igbvf
  echo "$stamp" > host.stamp
}

if [[ -f stamp && $(< stamp) == "$stamp" ]]; then
  [[ ${2:-} != host ]] || host
  exit 0
fi
echo "lab: making the guest images in $1"

if [[ ! -f kernel/version ]]; then
  v=$(version)
  if [[ ! $v ]]; then "$here/deps.sh" update; v=$(version); fi
  [[ $v ]] || { echo "lab: apt knows no linux-image-cloud-amd64 (this needs Debian)" >&2; exit 1; }
  unpack "linux-image-$v-cloud-amd64" kernel
  unpack kexec-tools kexec
  echo "$v" > kernel/version
fi
# kexec is linked with libraries of Xen, which nothing else here needs.
if [[ ! -d kexec/libraries ]]; then
  mkdir -p libraries
  for package in $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances kexec-tools | grep '^libxen'); do
    unpack "$package" library
    cp -a library/usr/lib/*/*.so* libraries
    rm -rf library
  done
  mv libraries kexec
fi
cp kernel/boot/vmlinuz-* vmlinuz
python3 "$here/extract_vmlinux.py" vmlinuz vmlinux
modules=(virtio_pci virtio_net af_packet 8021q vmxnet3)
"$here/mkinitrd.sh" kernel guest.cpio "${modules[@]}" -- iperf3 ethtool
LD_LIBRARY_PATH=$PWD/kexec/libraries "$here/mkinitrd.sh" kernel boot.cpio "${modules[@]}" -- "$PWD/kexec/sbin/kexec"
"$here/bare/build.sh" "$PWD/bare.elf"
echo "$stamp" > stamp
[[ ${2:-} != host ]] || host
