//! The thread that writes, and the files that it writes to. It ends with the last who could record.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender},
};

use tracing_appender::rolling::{RollingFileAppender, Rotation};

use super::{Counts, Place};

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// To write a line.
    Line(Vec<u8>),
    /// To say when everything before is written.
    Flush(SyncSender<()>),
}

/// Writes until nobody is left who could record.
pub(super) fn run(messages: &Receiver<Message>, mut sink: Box<dyn Write + Send>, counts: &Counts) {
    let mut torn = false;
    for message in messages {
        match message {
            Message::Line(line) => match write(&mut sink, &line, &mut torn) {
                Ok(()) => {
                    counts.written.inc();
                }
                Err(error) => counts.lost(&error),
            },
            Message::Flush(done) => {
                done.try_send(()).ok();
            }
        }
    }
}

/// Writes a line. What a full disk has left of an earlier one is ended first, so that this one can
/// be read.
fn write(sink: &mut dyn Write, line: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        sink.write_all(b"\n")?;
        *torn = false;
    }
    let mut left = line;
    while !left.is_empty() {
        match sink.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                left = &left[written..];
                *torn = !left.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

/// What is written to.
pub(super) fn sink(place: &Place) -> io::Result<Box<dyn Write + Send>> {
    let Place::Files { path, most } = place else { return Ok(Box::new(io::stdout())) };
    let (folder, name) = parts(path)?;
    // A link of this name is replaced; a file would be, too.
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_symlink()) {
        let problem = "is there, and no link: entries are written to a file beside it that has the \
                       date behind this name";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    let files = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(name)
        .latest_symlink(name)
        .max_log_files(*most)
        .build(folder);
    Ok(Box::new(files.map_err(io::Error::other)?))
}

fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::Error::other("must be the path of a file"))
}
