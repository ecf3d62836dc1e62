"""One connection, many drivers: firmware, Linux, Linux again."""
import shutil
import subprocess

from ..guest import Linux, mac, nic
from ..process import IMAGES
from ..runner import check

DHCP = """start 10.0.0.100
end 10.0.0.110
interface eth0
lease_file /tmp/leases
opt subnet 255.255.255.0
boot_file http://10.0.0.1/boot.ipxe
"""


def _server(lab, evb):
    """A guest that serves a kernel over DHCP and HTTP, from 10.0.0.1."""
    files = lab.directory / 'files'
    (files / 'srv').mkdir(parents=True)
    for name, image in (('kernel', 'vmlinuz'), ('initrd', 'boot.cpio')):
        shutil.copy(IMAGES / image, files / 'srv' / name)
    (files / 'srv' / 'boot.ipxe').write_text(
        '#!ipxe\nkernel http://10.0.0.1/kernel ' + Linux.CMDLINE + '\ninitrd http://10.0.0.1/initrd\nboot\n')
    (files / 'udhcpd.conf').write_text(DHCP)
    initrd = lab.directory / 'server.cpio'
    with open(initrd, 'wb') as out:
        out.write((IMAGES / 'guest.cpio').read_bytes())
        subprocess.run('find . | cpio --quiet -o -H newc', shell=True, cwd=files, stdout=out, check=True)
    shutil.rmtree(files)
    server = lab.linux('server', nic(evb.socket('server'), mac(1)), initrd=initrd, memory=512).ready()
    server.up('10.0.0.1').check('httpd -h /srv; touch /tmp/leases; udhcpd /udhcpd.conf > /dev/null 2>&1')
    return server


def _works(guest, server):
    guest.up('10.0.0.2').reach('10.0.0.1')
    sent, answered = guest.ping('10.0.0.1', 20, size=1400)
    assert sent == answered, f'{answered} of {sent} pings answered'
    guest.send_file(server, '10.0.0.1', 4)


@check(cases={'modern': ('disable-legacy=on',), 'transitional': ('disable-legacy=off,disable-modern=off',),
              'legacy': ('disable-legacy=off,disable-modern=on',)})
def network_boot(lab, props):
    """iPXE boots Linux over the bridge by DHCP and HTTP, which then uses the same port and reboots."""
    evb = lab.evb('server', 'client')
    server = _server(lab, evb)
    client = lab.linux('client', nic(evb.socket('client'), mac(2), props + ',bootindex=1', rom=True),
                       memory=512, reboots=True, boot=['-M', 'graphics=off'])
    for _ in range(2):
        client.expect(rb'boot.ipxe', 120)
        client.ready(300)
        _works(client, server)
        client.console.send('reboot -f')
    client.expect(rb'boot.ipxe', 120)
    return f'Linux {client.kernel}'


@check()
def drivers_in_turn(lab):
    """On one connection: driver reload, reboot and kexec, with other features each time."""
    evb = lab.evb('server', 'client')
    server = _server(lab, evb)
    client = lab.linux('client', nic(evb.socket('client'), mac(2)), memory=512, reboots=True,
                       initrd=IMAGES / 'boot.cpio').ready()
    _works(client, server)
    for _ in range(3):
        client.check('rmmod virtio_net; insmod /lib/modules/virtio_net.ko')
        client.check('until [ -e /sys/class/net/eth0 ]; do usleep 50000; done')
        _works(client, server)
    client.console.send('reboot -f')
    _works(client.ready(), server)
    client.check('wget -q -O /tmp/kernel http://10.0.0.1/kernel; wget -q -O /tmp/initrd http://10.0.0.1/initrd; '
                 f'kexec -l /tmp/kernel --initrd=/tmp/initrd --command-line="{Linux.CMDLINE}"')
    client.console.send('kexec -f -e')
    _works(client.ready(300), server)
