//! The XDP program that hands the frames of a device's queues to sockets (`bpf(2)`, `linux/bpf.h`).
//!
//! It has six instructions, so it is written here rather than compiled: frames of a queue with a socket go
//! to that socket, all others on to the host.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_long};

const MAP_CREATE: c_int = 0;
const MAP_UPDATE: c_int = 2;
const PROGRAM_LOAD: c_int = 5;
const LINK_CREATE: c_int = 28;
const LINK_DETACH: c_int = 34;
const MAP_OF_SOCKETS: u32 = 17;
const PROGRAM_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const IN_KERNEL: u32 = 1 << 1;
const IN_DRIVER: u32 = 1 << 2;

/// The name by which `bpftool` shows program and map.
const NAME: [u8; 16] = *b"evb_uplink\0\0\0\0\0\0";

/// Who runs a program for the frames of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// Its driver.
    Driver,
    /// The kernel, once the driver has handed it a frame (generic XDP).
    Kernel,
}

/// An empty table of sockets, one place for each of `queues` queues.
///
/// # Errors
///
/// The error of `bpf`: `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn socket_table(queues: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner: u32,
        node: u32,
        name: [u8; 16],
    }
    let attributes = Attributes {
        map_type: MAP_OF_SOCKETS,
        key_size: 4,
        value_size: 4,
        max_entries: queues,
        flags: 0,
        inner: 0,
        node: 0,
        name: NAME,
    };
    // SAFETY: these are the first attributes of this command, and none is a pointer.
    unsafe { make(MAP_CREATE, &attributes) }
}

/// Puts the `AF_XDP` socket for queue number `queue` into `table`. It leaves it when it is closed.
///
/// # Errors
///
/// The error of `bpf`.
pub fn put_socket(table: &impl AsFd, queue: u32, socket: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = raw(socket);
    let attributes = Attributes {
        map: raw(table),
        padding: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: these are the attributes of this command; key and value point to the four bytes each that
    // such a table has for them.
    unsafe { bpf(MAP_UPDATE, &attributes) }.map(drop)
}

/// Loads the program that uses `table`.
///
/// # Errors
///
/// The error of `bpf`.
pub fn load(table: &impl AsFd) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    let program = program(raw(table));
    let attributes = Attributes {
        program_type: PROGRAM_XDP,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"BSD-3-Clause".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: NAME,
        ifindex: 0,
        attach_type: ATTACH_XDP,
    };
    // SAFETY: these are the first attributes of this command; its pointers are to as many instructions
    // as it says and to a string with its zero, and no log is asked for.
    unsafe { make(PROGRAM_LOAD, &attributes) }
}

/// Has `runner` run `program` for each frame of device number `ifindex` until the last copy of the returned
/// descriptor is closed.
///
/// # Errors
///
/// The error of `bpf`: `EOPNOTSUPP` where the driver runs none, `EBUSY` and `EEXIST` where the device has
/// another program, and what the driver does not like.
pub fn attach(program: &impl AsFd, ifindex: u32, runner: Runner) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program: raw(program),
        ifindex,
        attach_type: ATTACH_XDP,
        flags: match runner {
            Runner::Driver => IN_DRIVER,
            Runner::Kernel => IN_KERNEL,
        },
    };
    // SAFETY: these are the first attributes of this command, and none is a pointer.
    unsafe { make(LINK_CREATE, &attributes) }
}

/// Ends what [`attach`] began, whoever else holds the descriptor.
///
/// # Errors
///
/// The error of `bpf`.
pub fn detach(link: &impl AsFd) -> io::Result<()> {
    let link = raw(link);
    // SAFETY: the one attribute of this command is the descriptor.
    unsafe { bpf(LINK_DETACH, &link) }.map(drop)
}

/// `return bpf_redirect_map(&table, ctx->rx_queue_index, XDP_PASS)`: the last argument is what becomes of
/// a frame for whose queue there is no socket.
fn program(table: u32) -> [u64; 6] {
    const QUEUE_AT: u64 = 16;
    const PASS: u64 = 2;
    const REDIRECT_MAP: u64 = 51;
    /// Operation, destination and source registers, offset, operand.
    const fn instruction(operation: u64, to: u64, from: u64, offset: u64, operand: u64) -> u64 {
        operation | to << 8 | from << 12 | offset << 16 | operand << 32
    }
    [
        // r2 = *(u32 *)(r1 + 16)
        instruction(0x61, 2, 1, QUEUE_AT, 0),
        // r1 = the table, in two parts
        instruction(0x18, 1, 1, 0, table.into()),
        0,
        // r3 = XDP_PASS
        instruction(0xb7, 3, 0, 0, PASS),
        // r0 = bpf_redirect_map(r1, r2, r3)
        instruction(0x85, 0, 0, 0, REDIRECT_MAP),
        // return r0
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// # Safety
///
/// As for [`bpf`], and the command must return a new descriptor.
unsafe fn make<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's guarantee; the descriptor, closed on exec, is new and nobody else owns it.
    unsafe {
        let fd = bpf(command, attributes)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// # Safety
///
/// `attributes` must be those of `command`, with pointers as it wants them, and without padding.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_int> {
    let size = size_of::<T>();
    // SAFETY: the kernel reads as many bytes as it is told, and what they point to, which the caller
    // guarantees.
    let rc: c_long = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    c_int::try_from(rc).map_err(io::Error::other)
}

fn raw(descriptor: &impl AsFd) -> u32 {
    // Those that are borrowed are not negative.
    descriptor.as_fd().as_raw_fd().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_as_the_kernel_reads_it() {
        let bytes: Vec<u8> = program(7)
            .iter()
            .flat_map(|instruction| instruction.to_le_bytes())
            .collect();
        let expected = [
            [0x61, 0x12, 16, 0, 0, 0, 0, 0],
            [0x18, 0x11, 0, 0, 7, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0xb7, 0x03, 0, 0, 2, 0, 0, 0],
            [0x85, 0x00, 0, 0, 51, 0, 0, 0],
            [0x95, 0x00, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
