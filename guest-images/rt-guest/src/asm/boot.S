# From the PVH entry (32 bit, no paging, EBX = start info) and from a start-up IPI to Rust at CPL 3.

.set CR4_VALUE, 0x620               # PAE, OSFXSR, OSXMMEXCPT
.set EFER, 0xc0000080
.set EFER_VALUE, 0x900              # LME, NXE
.set CR0_VALUE, 0x80000033          # PG, NE, ET, MP, PE

.macro ENTER_LONG_MODE target
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $EFER, %ecx
    xor %edx, %edx
    mov $EFER_VALUE, %eax
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0
    ljmpl $KERNEL_CODE, $\target
.endm

.code32
.globl pvh_entry
pvh_entry:
    lgdtl gdt_pointer
    ENTER_LONG_MODE first_cpu

.code64
# RBP = vCPU number, RDI = first argument, RSI = where to go at CPL 3, interrupts off. On the vCPU's scheduler
# stack unless another is named.
.macro ENTER_USER stack_end
    mov $KERNEL_DATA, %eax
    mov %eax, %ss
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    lidt idt_pointer
    mov %ebp, %eax
    shl $4, %eax
    add $FIRST_TSS, %eax
    ltr %ax
    imul $CPU_STRIDE, %rbp, %rsp
    add $cpus + CPU_BLOCK, %rsp
    inc %ebp
    imul $STACK_SIZE, %rbp, %rbp
    add $scheduler_stacks, %rbp
    mov %rbp, CPU_SCHEDULER_STACK(%rsp)
    movb $1, CPU_IN_SCHEDULER(%rsp)
    .ifnb \stack_end
    mov $\stack_end, %ebp
    .endif
    sub $8, %rbp                    # as after a call
    push $USER_DATA
    push %rbp
    push $2
    push $USER_CODE
    push %rsi
    iretq
.endm

first_cpu:
    mov %ebx, %edi
    mov $first_main, %esi
    xor %ebp, %ebp
    ENTER_USER boot_stack_end

# A further vCPU: numbered by its APIC id. Numbers beyond the last are of no use and stop.
further_cpu:
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    shr $24, %ebx
    cmp $MAX_VCPUS, %ebx
    jae stop
    mov %ebx, %ebp
    mov %ebx, %edi
    mov $further_main, %esi
    ENTER_USER

# Copied below 1 MiB (see smp.rs); CS is its address / 16.
.code16
.globl trampoline, trampoline_end
trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl (trampoline_gdt_pointer - trampoline)
    ENTER_LONG_MODE further_cpu
.balign 4
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:
.code64

.pushsection .note.pvh, "a", @note
.balign 4
    .long 4                         # name size
    .long 8                         # descriptor size; QEMU reads eight bytes
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry
.popsection
