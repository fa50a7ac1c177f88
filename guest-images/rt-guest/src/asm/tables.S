# Descriptor and page tables, complete when the image is loaded: every instruction at CPL 0 that would fill them in at
# run time is run by an instruction emulator on hosts without hardware virtualisation.
#
# Linked at a multiple of 64 KiB: `label - kernel` is then the low half of a label's address and an assembly constant.

.set KERNEL_HIGH, 0x0010            # address bits 16.. of the section, checked by main.rs
.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_DATA, 0x2b                # selectors as Linux has them, with RPL 3
.set USER_CODE, 0x33
.set FIRST_TSS, 0x40
.set TSS_SIZE, 0x150
.set IO_BITMAP, 0x68                # right behind the TSS proper
.set IO_BITMAP_BYTES, 0x700 / 8     # ports that CPL 3 may use

.section .kernel, "awx", @progbits
.balign 16
.globl kernel
kernel:

.macro GATE handler, flags
    .word (\handler - kernel)
    .word KERNEL_CODE
    .byte 0
    .byte \flags
    .word KERNEL_HIGH
    .quad 0
.endm
.set INTERRUPT_GATE, 0x8e
.set USER_GATE, 0xee                # CPL 3 may raise it

.balign 16
idt:
    GATE exception_0, INTERRUPT_GATE
    GATE exception_1, INTERRUPT_GATE
    GATE exception_2, INTERRUPT_GATE
    GATE service, USER_GATE
    .irp n, 4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    GATE exception_\n, INTERRUPT_GATE
    .endr
    GATE timer_deadline, INTERRUPT_GATE     # vector 0x20
    GATE timer_one_shot, INTERRUPT_GATE     # vector 0x21
    .rept 0x30 - 0x22
    GATE spurious, INTERRUPT_GATE
    .endr
    GATE device_x2apic, INTERRUPT_GATE      # vector 0x30
    GATE device_xapic, INTERRUPT_GATE       # vector 0x31
    .rept 256 - 0x32
    GATE spurious, INTERRUPT_GATE
    .endr
idt_end:
    .word 0
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
no_idt_pointer:
    .word 0
    .quad 0

.balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 kernel code, 64 bit
    .quad 0x00cf93000000ffff        # 0x10 kernel data
    .quad 0, 0
    .quad 0x00cff3000000ffff        # 0x28 user data
    .quad 0x00affb000000ffff        # 0x30 user code, 64 bit
    .quad 0
.set i, 0
.rept MAX_VCPUS
    .word TSS_SIZE - 1
    .word (tss - kernel) + i * TSS_SIZE
    .byte KERNEL_HIGH
    .byte 0x89, 0, 0
    .quad 0
    .set i, i + 1
.endr
gdt_end:
    .word 0
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

.balign 16
tss:
.set i, 0
.rept MAX_VCPUS
    .long 0
    .quad cpus + i * CPU_STRIDE + CPU_BLOCK     # RSP0: the kernel stack ends where the vCPU's block begins
    .fill 0x66 - 12, 1, 0
    .word IO_BITMAP
    .fill IO_BITMAP_BYTES, 1, 0
    .fill TSS_SIZE - IO_BITMAP - IO_BITMAP_BYTES, 1, 0xff
    .set i, i + 1
.endr

# The first 4 GiB map to themselves in pages of 2 MiB, open to CPL 3.
.balign 4096
pml4:
    .quad page_directory_pointers + 7
    .fill 511, 8, 0
page_directory_pointers:
    .quad page_directories + 7
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .quad page_directories + 0x3007
    .fill 508, 8, 0
page_directories:
.set i, 0
.rept 2048
    .quad i * 0x200000 + 0x87
    .set i, i + 1
.endr
