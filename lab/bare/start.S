/* Entry of the bare-metal guest: QEMU starts a PVH kernel in flat 32-bit mode, with the address of
 * its start info in %ebx. Maps the low 4 GiB one to one, enters 64-bit mode, and calls cmain(start info). */
        .section .note.pvh, "a", @note
        .long 4, 8, 18                  /* "Xen", an 8-byte value, XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .quad start

        .section .text.start, "ax"
        .code32
        .globl start
start:  cli
        movl %ebx, start_info
        movl $pml4, %edi
        movl $pdpt + 3, (%edi)
        movl $pdpt, %edi
        movl $pd + 3, %eax
        movl $4, %ecx
1:      movl %eax, (%edi)
        addl $8, %edi
        addl $4096, %eax
        loop 1b
        movl $pd, %edi
        movl $0x83, %eax                /* present, writable, 2 MiB */
        movl $2048, %ecx
2:      movl %eax, (%edi)
        addl $8, %edi
        addl $0x200000, %eax
        loop 2b
        movl %cr4, %eax
        orl $0x20, %eax                 /* PAE */
        movl %eax, %cr4
        movl $pml4, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx          /* EFER */
        rdmsr
        orl $0x100, %eax                /* LME */
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax           /* PG */
        movl %eax, %cr0
        lgdt gdtp
        ljmp $8, $long

        .code64
long:   movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movq $stack_top, %rsp
        movl start_info, %edi
        call cmain
3:      hlt
        jmp 3b

        .balign 8
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtp:   .word 23
        .long gdt
start_info: .long 0

        .bss
        .balign 4096
pml4:   .skip 4096
pdpt:   .skip 4096
pd:     .skip 16384
        .skip 16384
stack_top:
        .section .note.GNU-stack, "", @progbits
