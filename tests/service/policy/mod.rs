//! What callers may ask for: refused unless the operator has opened it, and then it does
//! what it says and no more.

mod answers;
mod bounds;
mod closed;
mod environment;
mod folders;
mod opened;
mod secrets;

use session_pool::proto::SessionOptions;

pub fn options(change: impl FnOnce(&mut SessionOptions)) -> SessionOptions {
    let mut options = SessionOptions::default();
    change(&mut options);
    options
}
