//! Many frames of one shape, as fast as a pipe takes them: rendered once, only their number is written anew.

use crate::session::{Flow, Session};

/// How many bytes are handed to the pipe at once; between two such blocks the session takes in what has come.
const BLOCK: usize = 256 * 1024;

const DIGITS: usize = 12;

/// Where a frame's number goes: a template holds this once or more.
pub const NUMBER: &str = "@@@@@@@@@@@@";

/// Prints the template `count` times, numbered from 1. Returns how many frames were printed, and why not all.
pub fn print(session: &mut Session, template: &str, count: usize) -> (usize, Flow) {
    let mut line = format!("{template}\n").into_bytes();
    let places: Vec<usize> = template.match_indices(NUMBER).map(|(at, _)| at).collect();
    let mut number = [b'0'; DIGITS];
    let mut block = Vec::with_capacity(BLOCK + line.len());
    for printed in 0..count {
        increment(&mut number);
        for &at in &places {
            line[at..at + DIGITS].copy_from_slice(&number);
        }
        block.extend_from_slice(&line);
        if block.len() >= BLOCK {
            session.out.bytes(&block);
            block.clear();
            if let Err(stop) = session.poll() {
                return (printed + 1, Err(stop));
            }
        }
    }
    session.out.bytes(&block);
    (count, Ok(()))
}

fn increment(number: &mut [u8; DIGITS]) {
    for digit in number.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry() {
        let mut number = *b"000000000999";
        increment(&mut number);
        assert_eq!(&number, b"000000001000");
        assert_eq!(NUMBER.len(), DIGITS);
    }
}
