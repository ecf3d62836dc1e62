"""A guest that is a host: Linux with a NIC that has virtual functions, and evb in it."""
import itertools
import os
import re
import shutil
import subprocess
import sys

from .evb import BINARY
from .guest import QEMU, Linux
from .process import IMAGES, ROOT

PF_MAC, WIRE_MAC = '52:54:00:00:01:01', '52:54:00:00:01:02'
_PF_MACS = PF_MAC, '52:54:00:00:01:03'

# One processor only: with two, QEMU may stumble over its own tables when functions come and go behind an IOMMU.
# intel-iommu comes first: what precedes it is not behind it. igb's functions only work on a pcie-root-port.
# The hub is the wire: the NIC is on one side of it, and a virtio NIC that listens there on the other.
_DEVICES = ['-device', 'intel-iommu,intremap=on', '-netdev', 'hubport,id=wire,hubid=0',
            '-device', f'virtio-net-pci,netdev=wire,mac={WIRE_MAC},romfile=']


def _nic(number, address):
    """The arguments for one of its NICs."""
    return ['-device', f'pcie-root-port,id=rp{number},slot={number + 1}', '-netdev', f'hubport,id=h{number},hubid=0',
            '-device', f'igb,netdev=h{number},mac={address},bus=rp{number},romfile=']

# This machine's files, which it can read.
_FILES = ['-virtfs', 'local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap']


class Host(Linux):
    """`pf` is its NIC, `evb` runs in it as `evb`, and `wire` is what is at the other end of the NIC's cable,
    in the network namespace `wire`. `pfs` are all its NICs, where it has several at that cable."""

    def __init__(self, directory, name='host', programs=(), nics=1, memory=768):
        initrd = directory / f'{name}.cpio'
        _pack(initrd, IMAGES / 'host.cpio', {'evb': BINARY, **dict(programs)}, directory / f'{name}.files')
        self.addresses = _PF_MACS[:nics]
        cards = itertools.chain(*(_nic(*card) for card in enumerate(self.addresses)))
        # Where others keep the processors busy the kernel may find that its timer does not work, and panics.
        super().__init__(directory, name, [*_DEVICES, *cards, *_FILES], memory=memory, boot=[
            '-kernel', IMAGES / 'host.vmlinux', '-initrd', initrd,
            '-append', f'{self.CMDLINE} intel_iommu=on no_timer_check net.ifnames=0'])

    def ready(self, timeout=300):
        super().ready(timeout)
        self.wire, *self.pfs = (self.check(f'basename $(dirname $(grep -l {address} /sys/class/net/*/address))')
                                for address in (WIRE_MAC, *self.addresses))
        self.pf = self.pfs[0]
        # Each device answers for its own addresses only, as if there were several hosts.
        self.check('for f in all default; do echo 1 > /proc/sys/net/ipv4/conf/$f/arp_ignore; '
                   'echo 2 > /proc/sys/net/ipv4/conf/$f/arp_announce; done; mkdir -p /run/netns /run/evb')
        self.check(f'ip netns add wire; ip netns exec wire sh -c "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore"; '
                   f'ip link set {self.wire} netns wire; '
                   f'ip -n wire link set {self.wire} up; ip link set {self.pf} up; '
                   f'until grep -q 1 /sys/class/net/{self.pf}/carrier; do usleep 100000; done')
        return self

    def wire_up(self, address, vlan=None):
        """An address of the wire's other end, in a VLAN or untagged."""
        dev = self.wire
        if vlan:
            dev = f'{self.wire}.{vlan}'
            self.check(f'ip -n wire link add link {self.wire} name {dev} type vlan id {vlan}; '
                       f'ip -n wire link set {dev} up')
        self.check(f'ip -n wire addr add {address}/24 dev {dev}')

    def answers(self, address):
        """Whether a ping of the host is answered, within three seconds."""
        return self.sh(f'ping -c 3 -W 1 -i 0.5 {address} > /dev/null')[0] == 0

    def seen_on_wire(self, address):
        """By which device, and with which MAC address, the wire's other end knows an address."""
        found = re.search(r'dev (\S+) lladdr (\S+)', self.check(f'ip -n wire neigh show {address} nud all | grep lladdr'))
        return found[1], found[2]

    def lab(self, *words, timeout=600):
        """Runs `python3 -m lab WORDS` there, from this machine's files: what it says."""
        self.check('dmesg -n 1; mkdir /files /project /images; '
                   'mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 files /files; '
                   f'cd /files; mount --bind .{ROOT} /project; mount --bind .{IMAGES} /images; '
                   'for d in tmp run; do mount -t tmpfs none $d; done; '
                   # The project may be in one of these, and its images.
                   f'mkdir -p .{ROOT}; mount --bind /project .{ROOT}; '
                   f'[ -d .{IMAGES} ] || {{ mkdir -p .{IMAGES}; mount --bind /images .{IMAGES}; }}; '
                   'for d in dev proc sys; do mount --bind /$d $d; done')
        command = (f'cd {ROOT} && EVB={BINARY} EVB_LAB={IMAGES} QEMU={QEMU} PATH={os.environ["PATH"]} '
                   f'{sys.executable} -B -m lab {" ".join(words)}')
        return self.check(f"chroot /files sh -c '{command}'", timeout)

    def write(self, path, text):
        """Writes a short file; neither quotes of shells nor backslashes in it."""
        escaped = text.replace('\n', '\\n')
        self.check(f"printf %b '{escaped}' > {path}")

    def fails(self, command):
        """Runs a command that has to fail; what it says."""
        status, out = self.sh(command)
        assert status, f'{command} succeeded: {out}'
        return re.sub(r'\s+', ' ', out).strip()


def _pack(out, base, programs, scratch):
    """The image `base` with programs of this machine and the libraries that they need."""
    for name, program in programs.items():
        target = scratch / 'usr' / 'bin' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(['strip', '-o', target, program], check=True)
        listing = subprocess.run(['ldd', program], text=True, stdout=subprocess.PIPE).stdout
        for library in re.findall(r'(/\S+) \(', listing):
            copy = scratch / library.lstrip('/')
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    with open(out, 'wb') as image:
        image.write(base.read_bytes())
        image.flush()
        subprocess.run('find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0', shell=True, cwd=scratch,
                       stdout=image, check=True)
    shutil.rmtree(scratch)
