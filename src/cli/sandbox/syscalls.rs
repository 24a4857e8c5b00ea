//! The system calls that no session gets, as a filter of the kernel (seccomp).
//!
//! The kernel's key rings belong to users and to login sessions, not to namespaces: without
//! the filter all sandboxes have one key ring in common, with each other and with whoever
//! started the service. No other system call is filtered. Container runtimes forbid the same
//! three by default. Pure, but for the pipe that hands the filter to bubblewrap.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use rustix::pipe::{PipeFlags, pipe_with};

/// An architecture of the kernel's interface, and the calls that are refused on it.
struct Interface {
    /// Its `AUDIT_ARCH_…` of `linux/audit.h`.
    arch: u32,
    /// `add_key`, `request_key` and `keyctl`.
    refused: [u32; 3],
}

/// A machine's own programs and those of its 32-bit predecessor make calls by different
/// numbers: all that a CLI exists for, with their `asm/unistd.h`.
const INTERFACES: [Interface; 4] = [
    // x86-64
    Interface { arch: 0xC000_003E, refused: [248, 249, 250] },
    // i386
    Interface { arch: 0x4000_0003, refused: [286, 287, 288] },
    // AArch64
    Interface { arch: 0xC000_00B7, refused: [217, 218, 219] },
    // Arm
    Interface { arch: 0x4000_0028, refused: [309, 310, 311] },
];

/// Set in the number of calls by the x32 interface, which is x86-64 with smaller pointers.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// `SECCOMP_RET_ALLOW`, and `SECCOMP_RET_ERRNO` with `EPERM`, which programs expect where
/// keys are kept from them.
const ALLOW: u32 = 0x7FFF_0000;
const REFUSE: u32 = 0x0005_0001;

/// One instruction of a filter: `struct sock_filter` of `linux/filter.h`.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    /// Instructions to skip if a comparison holds.
    then: u8,
    /// And if not.
    otherwise: u8,
    operand: u32,
}

impl Instruction {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const IS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;

    fn new(code: u16, operand: u32) -> Self {
        Self { code, then: 0, otherwise: 0, operand }
    }

    fn skip(operand: u32, then: u8, otherwise: u8) -> Self {
        Self { code: Self::IS_EQUAL, then, otherwise, operand }
    }

    fn bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_ne_bytes();
        let [e, f, g, h] = self.operand.to_ne_bytes();
        [a, b, self.then, self.otherwise, e, f, g, h]
    }
}

/// A block for each interface, which ends with an answer.
fn program() -> Vec<Instruction> {
    let mut program = vec![Instruction::new(Instruction::LOAD, ARCH)];
    for Interface { arch, refused: [add, request, control] } in INTERFACES {
        program.extend([
            Instruction::skip(arch, 0, 7),
            Instruction::new(Instruction::LOAD, NUMBER),
            Instruction::new(Instruction::AND, !X32),
            Instruction::skip(add, 3, 0),
            Instruction::skip(request, 2, 0),
            Instruction::skip(control, 1, 0),
            Instruction::new(Instruction::RETURN, ALLOW),
            Instruction::new(Instruction::RETURN, REFUSE),
        ]);
    }
    // The kernel has no other interface on machines for which there is a CLI.
    program.push(Instruction::new(Instruction::RETURN, ALLOW));
    program
}

/// The filter, to be read once, as `bwrap --seccomp` does.
pub fn filter() -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let bytes: Vec<u8> = program().into_iter().flat_map(Instruction::bytes).collect();
    // Less than a pipe holds: nobody has to read it meanwhile.
    std::fs::File::from(writer).write_all(&bytes)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with the filter.
    fn answer(arch: u32, number: u32) -> u32 {
        let program = program();
        let (mut at, mut held) = (0, 0);
        loop {
            let Instruction { code, then, otherwise, operand } = program[at];
            at += 1;
            match code {
                Instruction::LOAD if operand == ARCH => held = arch,
                Instruction::LOAD => held = number,
                Instruction::AND => held &= operand,
                Instruction::IS_EQUAL => {
                    at += usize::from(if held == operand { then } else { otherwise });
                }
                _ => return operand,
            }
        }
    }

    #[test]
    fn keys_are_refused_on_each_interface_and_nothing_else() {
        for Interface { arch, refused } in INTERFACES {
            for number in 0..1000 {
                let expected = if refused.contains(&number) { REFUSE } else { ALLOW };
                assert_eq!(answer(arch, number), expected, "{arch:x} {number}");
            }
        }
        assert_eq!(answer(INTERFACES[0].arch, X32 | 250), REFUSE);
        assert_eq!(answer(0x8000_0016, 250), ALLOW, "another machine has other numbers");
    }
}
