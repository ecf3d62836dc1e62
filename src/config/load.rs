//! Reading a configuration file, which may be anything that a path can name.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::report::Fault;

/// Bytes of the longest file that is read: several times what the ports of a daemon can fill.
const LONGEST: u64 = 8 << 20;

/// The text of a file. It must be a regular one, so that nobody has to be waited for and it has an end.
pub fn text(path: &Path) -> Result<String, Fault> {
    let shown = path.display();
    let unreadable = |error| Fault::new(format!("cannot read {shown}: {error}"));
    // Opening a FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(unreadable)?;
    let too_long = || {
        let limit = LONGEST >> 20;
        Fault::new(format!("{shown} is longer than {limit} MiB"))
            .help("a configuration is shorter: give the path of one")
    };
    if let Some(kind) = irregular(&file).map_err(unreadable)? {
        let help = "give the path of a configuration file";
        return Err(Fault::new(format!("{shown} is {kind}, not a file")).help(help));
    }
    if file.metadata().map_err(unreadable)?.len() > LONGEST {
        return Err(too_long());
    }
    // It may grow while it is read, and files of the kernel do not know their length.
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(too_long());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Fault::new(format!("{shown} is not text: byte {at} is not UTF-8")).help("write it in UTF-8")
    })
}

/// What it is if it is not a regular file.
fn irregular(file: &File) -> std::io::Result<Option<&'static str>> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else {
        Some("a device")
    })
}
