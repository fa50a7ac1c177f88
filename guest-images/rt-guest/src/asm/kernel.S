# The kernel proper: what needs CPL 0 and nothing else. Short, without loops, and integer-only, because hosts without
# hardware virtualisation emulate every instruction here.
#
# A vCPU's kernel stack ends where its block (cpu.rs) begins, so an interrupt from CPL 3 finds the block from RSP alone.

.set X2APIC_EOI, 0x80b
.set TSC_DEADLINE, 0x6e0
.set FRAME, 64                      # three registers and an interrupt frame lie between RSP and the block
.set IDLE_FRAME, 40                 # the frame of the idle service, at the top of the stack
.set IDLE, 112                      # as FRAME, for an interrupt that ends the idle service: both frames, aligned

.balign 16
spurious:
    iretq

# The timer. Enters the scheduler at CPL 3 unless that is what was interrupted. `rearm` = 1 programs the release after
# this one here, where it costs no further way into the kernel.
.macro TIMER name, rearm
.balign 16
\name:
    push %rax
    push %rdx
    rdtsc
    push %rcx
    testb $3, 32(%rsp)
    jz \name\()_idle
    mov %eax, CPU_STAMP + FRAME(%rsp)
    mov %edx, CPU_STAMP + 4 + FRAME(%rsp)
    END_OF_INTERRUPT \rearm
    cmpb $0, CPU_IN_SCHEDULER + FRAME(%rsp)
    jne note
    .if \rearm
    mov CPU_FOLLOWING + FRAME(%rsp), %eax
    mov CPU_FOLLOWING + 4 + FRAME(%rsp), %edx
    mov $TSC_DEADLINE, %ecx
    wrmsr
    orb $PENDING_REARMED, CPU_PENDING + FRAME(%rsp)
    .else
    orb $PENDING_SPENT, CPU_PENDING + FRAME(%rsp)
    .endif
    jmp upcall
\name\()_idle:
    mov %eax, CPU_STAMP + IDLE(%rsp)
    mov %edx, CPU_STAMP + 4 + IDLE(%rsp)
    END_OF_INTERRUPT \rearm
    .if \rearm
    mov CPU_FOLLOWING + IDLE(%rsp), %eax
    mov CPU_FOLLOWING + 4 + IDLE(%rsp), %edx
    mov $TSC_DEADLINE, %ecx
    wrmsr
    orb $PENDING_REARMED, CPU_PENDING + IDLE(%rsp)
    .else
    orb $PENDING_SPENT, CPU_PENDING + IDLE(%rsp)
    .endif
    add $IDLE - IDLE_FRAME, %rsp
    iretq
.endm
.macro END_OF_INTERRUPT x2apic
    .if \x2apic
    xor %eax, %eax
    xor %edx, %edx
    mov $X2APIC_EOI, %ecx
    wrmsr
    .else
    mov $0xfee000b0, %eax
    movl $0, (%rax)
    .endif
.endm
    TIMER timer_deadline, 1
    TIMER timer_one_shot, 0

# A device: notes that it has something, and enters the scheduler as the timer does.
.macro DEVICE name, x2apic
.balign 16
\name:
    push %rax
    push %rdx
    push %rcx
    END_OF_INTERRUPT \x2apic
    testb $3, 32(%rsp)
    jz \name\()_idle
    orb $PENDING_DEVICE, CPU_PENDING + FRAME(%rsp)
    cmpb $0, CPU_IN_SCHEDULER + FRAME(%rsp)
    jne noted
    jmp upcall
\name\()_idle:
    orb $PENDING_DEVICE, CPU_PENDING + IDLE(%rsp)
    add $IDLE - IDLE_FRAME, %rsp
    iretq
.endm
    DEVICE device_x2apic, 1
    DEVICE device_xapic, 0

# The scheduler itself was interrupted: it looks again before it leaves.
note:
    orb $PENDING_SPENT, CPU_PENDING + FRAME(%rsp)
noted:
    pop %rcx
    pop %rdx
    pop %rax
    iretq

# Leaves CPL 3's registers where `user_upcall` saves the rest.
upcall:
    movb $1, CPU_IN_SCHEDULER + FRAME(%rsp)
    mov 24(%rsp), %rcx
    sub $leave_window, %rcx
    cmp $leave_window_size, %rcx
    jb upcall_leaving
    mov CPU_CURRENT + FRAME(%rsp), %rcx
    pop CONTEXT_RCX(%rcx)
    pop CONTEXT_RDX(%rcx)
    pop CONTEXT_RAX(%rcx)
    pop CONTEXT_RIP(%rcx)
    add $8, %rsp
    pop CONTEXT_RFLAGS(%rcx)
    pop CONTEXT_RSP(%rcx)
    push CPU_SCHEDULER_STACK + 8(%rsp)
    push $0x202
    push $USER_CODE
    push $user_upcall
    iretq
# The scheduler was about to leave: the context it was leaving for is still saved.
upcall_leaving:
    lea FRAME(%rsp), %rdi
    lea FRAME - 8(%rsp), %rsp
    push CPU_SCHEDULER_STACK + 8(%rsp)
    push $0x202
    push $USER_CODE
    push $reschedule
    iretq

# Services, by int3: EDI says which. RAX, RCX, RDX may change, and RBX with CPUID.
.balign 16
service:
    test %edi, %edi
    jz service_wrmsr
    dec %edi
    jz service_wrmsr_idle
    dec %edi
    jz service_idle
    dec %edi
    jz service_rdmsr
    dec %edi
    jz service_interrupts_on
    dec %edi
    jz service_triple_fault
    dec %edi
    jz service_hang
    dec %edi
    jz service_invalid
    dec %edi
    jz service_cpuid
stop:
    cli
    hlt
    jmp stop
service_wrmsr:
    wrmsr
    iretq
service_wrmsr_idle:
    wrmsr
service_idle:
    cmpb $0, CPU_PENDING + IDLE_FRAME(%rsp)
    jne 1f
    sti
    hlt
    cli
1:  iretq
service_rdmsr:
    rdmsr
    iretq
service_cpuid:
    cpuid
    iretq
service_interrupts_on:
    orl $0x200, 16(%rsp)
    iretq
service_triple_fault:
    lidt no_idt_pointer
    ud2
service_hang:
    jmp service_hang
service_invalid:
    ud2

# Exceptions end the guest. One vCPU reports, at CPL 3; a second one stops, and an exception while reporting ends at once.
.macro EXCEPTION vector, has_code
.balign 16
exception_\vector:
    .if !\has_code
    push $0
    .endif
    push $\vector
    jmp exception
.endm
.irp n, 0,1,2,4,5,6,7,9,15,16,18,19,20,22,23,24,25,26,27,28,31
    EXCEPTION \n, 0
.endr
.irp n, 8,10,11,12,13,14,17,21,29,30
    EXCEPTION \n, 1
.endr
exception:
    mov %rsp, %rbx
    shr $12, %rbx
    xor %eax, %eax
    lock cmpxchg %rbx, reporting
    jnz 1f
    pop %rdi
    pop %rsi
    mov (%rsp), %rdx
    mov %cr2, %rcx
    mov 8(%rsp), %r8
    mov 24(%rsp), %r9
    push $USER_DATA
    push $boot_stack_end - 8
    push $2
    push $USER_CODE
    push $report_exception
    iretq
1:  cmp %rax, %rbx
    jne stop
    mov $0x12, %eax
    out %al, $0xf4
    jmp stop
.balign 8
reporting:
    .quad 0
