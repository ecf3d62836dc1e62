#!/bin/sh
# build.sh OUT: builds the bare-metal guest (bare.c says what it is). Needs gcc and binutils; takes 1 s.
set -eu
out=$1
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# No SSE, since nothing enables it; no red zone, as in any kernel.
gcc -c -Wall -Wextra -Werror -O2 -m64 -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
    -fcf-protection=none -fno-tree-loop-distribute-patterns -mgeneral-regs-only -mno-red-zone \
    -o "$tmp/bare.o" bare.c
gcc -c -m64 -o "$tmp/start.o" start.S
ld -m elf_x86_64 -nostdlib -static --build-id=none --no-warn-rwx-segments -z max-page-size=4096 \
    -T bare.ld -o "$out" "$tmp/start.o" "$tmp/bare.o"
