"""extract_vmlinux.py VMLINUZ OUT: takes the ELF kernel out of a bzImage.

QEMU boots it directly; under emulation the guest's own decompression costs more than the rest of the boot.
"""
import struct
import subprocess
import sys

UNPACKERS = ((b'\xfd7zXZ\0', ['xz', '-dc']), (b'\x28\xb5\x2f\xfd', ['zstd', '-qdc']),
             (b'\x1f\x8b', ['gzip', '-dc']), (b'\x02\x21\x4c\x18', ['lz4', '-dc']))


def extract(image):
    setup_sectors = (image[0x1f1] or 4) + 1
    offset, length = struct.unpack_from('<II', image, 0x248)     # payload_offset, payload_length
    payload = image[setup_sectors * 512 + offset:][:length]
    for magic, command in UNPACKERS:
        if payload.startswith(magic):
            # The last 4 bytes are the size, which is part of gzip's format only. The other programs may
            # complain about whatever follows; so the result is checked instead of their exit status.
            data = payload if command[0] == 'gzip' else payload[:-4]
            elf = subprocess.run(command, input=data, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL).stdout
            if elf[:4] == b'\x7fELF':
                return elf
            sys.exit('the payload of the kernel is no ELF file')
    sys.exit(f'unknown compression of the kernel: {payload[:6]!r}')


if __name__ == '__main__':
    with open(sys.argv[1], 'rb') as source:
        kernel = extract(source.read())
    with open(sys.argv[2], 'wb') as out:
        out.write(kernel)
