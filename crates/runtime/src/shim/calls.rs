//! The system calls that a program in a sandbox may not make: those by which it would get at parts
//! of the kernel that only administrators need, and where most ways out of a sandbox were found.
//!
//! A short list of what is refused, not yet one of what is allowed: programs are of all kinds, and
//! the kernel refuses most of these to a user without capabilities anyway. New user namespaces are
//! the exception that matters, because inside one a program has capabilities again.

use libc::{c_long, sock_filter};

/// The architecture of system calls as the kernel names it (linux/audit.h), where one is known.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// From this number on they are those of x32, an x86 ABI with numbers of its own.
const FIRST_OF_X32: u32 = 0x4000_0000;

/// Refused with EPERM.
const REFUSED: &[c_long] = &[
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_fanotify_init,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_syslog,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// The kinds of sockets that programs may open: Unix, IP, and netlink, by which C libraries list
/// interfaces. Others are rare, were ways out of sandboxes, and some (VSOCK) are not confined by
/// network namespaces.
const SOCKETS: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Refused with EPERM when their first argument asks for a user namespace.
const WITH_FLAGS: &[c_long] = &[libc::SYS_clone, libc::SYS_unshare];

/// Where `struct seccomp_data` (seccomp(2)) has the number, the architecture and the lower half of
/// the first argument.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENT_AT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// The filter; empty where the processor's system calls aren't known here.
pub(super) fn filter() -> Vec<sock_filter> {
    let Some(architecture) = ARCHITECTURE else { return Vec::new() };
    // ENOSYS, as a kernel without them would answer: programs then go another way.
    let (missing, refused) = (answer(libc::ENOSYS), answer(libc::EPERM));
    let allowed = statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW);
    let mut filter = vec![
        load(ARCHITECTURE_AT),
        // Those of another architecture (32 bits) have other numbers.
        unless(libc::BPF_JEQ, architecture, 0, 1),
        missing,
        load(NUMBER_AT),
    ];
    if cfg!(target_arch = "x86_64") {
        filter.extend([unless(libc::BPF_JGE, FIRST_OF_X32, 1, 0), missing]);
    }
    // Its flags are in memory, where no filter can look; C libraries then use clone.
    filter.extend([unless(libc::BPF_JEQ, number(libc::SYS_clone3), 1, 0), missing]);
    for call in REFUSED {
        filter.extend([unless(libc::BPF_JEQ, number(*call), 1, 0), refused]);
    }
    let new_user = libc::CLONE_NEWUSER.cast_unsigned();
    for call in WITH_FLAGS {
        filter.extend([
            unless(libc::BPF_JEQ, number(*call), 4, 0),
            load(ARGUMENT_AT),
            unless(libc::BPF_JSET, new_user, 1, 0),
            refused,
            allowed,
        ]);
    }
    filter.extend(sockets(allowed));
    filter.push(allowed);
    filter
}

/// The part that decides on socket(2), whose number may be in the accumulator.
fn sockets(allowed: sock_filter) -> Vec<sock_filter> {
    let mut decide = vec![load(ARGUMENT_AT)];
    for kind in SOCKETS {
        decide.extend([unless(libc::BPF_JEQ, kind.cast_unsigned(), 1, 0), allowed]);
    }
    // As a kernel without them would answer.
    decide.push(answer(libc::EAFNOSUPPORT));
    let length = u8::try_from(decide.len()).unwrap_or(u8::MAX);
    let mut part = vec![unless(libc::BPF_JEQ, number(libc::SYS_socket), length, 0)];
    part.append(&mut decide);
    part
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn answer(errno: i32) -> sock_filter {
    statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, value: u32) -> sock_filter {
    instruction(code, value, 0, 0)
}

/// Skips `otherwise` instructions where the test fails, and `then` where it holds.
fn unless(test: u32, value: u32, otherwise: u8, then: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_K | test, value, then, otherwise)
}

fn instruction(code: u32, value: u32, then: u8, otherwise: u8) -> sock_filter {
    // All codes are below 256.
    sock_filter { code: u16::try_from(code).unwrap_or(0), jt: then, jf: otherwise, k: value }
}
