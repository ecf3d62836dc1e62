//! Single words: numbers in their range, one of a few names, addresses, sockets, devices.
//!
//! Each function returns the value or leaves a fault that says what would be right.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::config::file::{Word, Words};
use crate::config::report::{Fault, Span, suggest};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

/// The faults found so far.
pub type Faults = Vec<Fault>;

/// Longest path that fits into a socket address, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;
/// Longest name of a network device, without the closing zero.
const DEVICE_NAME_MAX: usize = 15;
/// Longest name of a relay, port, group or patch.
const NAME_MAX: usize = 64;

/// A number within `range`.
pub fn number<T: TryFrom<i64>>(
    word: &Word<i64>,
    key: &str,
    range: RangeInclusive<i64>,
    faults: &mut Faults,
) -> Option<T> {
    let word = word.as_ref()?;
    let value = *word.get_ref();
    if range.contains(&value) {
        return T::try_from(value).ok();
    }
    faults.push(
        Fault::at(word.span(), format!("`{key}` cannot be {value}")).help(format!(
            "a number from {} to {}",
            range.start(),
            range.end()
        )),
    );
    None
}

/// The worker that serves a port, of `workers` in all.
pub fn worker(word: &Word<i64>, workers: usize, faults: &mut Faults) -> Option<usize> {
    let word = word.as_ref()?;
    let found = usize::try_from(*word.get_ref()).ok();
    let found = found.filter(|worker| *worker < workers);
    if found.is_none() {
        let help = match workers {
            1 => "worker 0 is the only one; for more set `workers` in `[daemon]`".to_owned(),
            _ => format!(
                "workers are numbered from 0 to {}; for more raise `workers` in `[daemon]`",
                workers - 1
            ),
        };
        let title = format!("there is no worker {}", word.get_ref());
        faults.push(Fault::at(word.span(), title).help(help));
    }
    found
}

/// One of a few names.
pub fn choice<T: Copy>(
    word: &Word<String>,
    key: &str,
    options: &[(&str, T)],
    faults: &mut Faults,
) -> Option<T> {
    let word = word.as_ref()?;
    let found = options.iter().find(|(name, _)| name == word.get_ref());
    if found.is_none() {
        let names: Vec<String> = options
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        faults.push(
            Fault::at(
                word.span(),
                format!("`{key}` cannot be \"{}\"", word.get_ref()),
            )
            .help(format!("one of {}", names.join(", "))),
        );
    }
    found.map(|(_, value)| *value)
}

/// A yes or no.
pub fn flag(word: &Word<bool>) -> Option<bool> {
    word.as_ref().map(|word| *word.get_ref())
}

/// Where a word stands, if it does.
pub fn place<T>(word: &Word<T>) -> Option<Span> {
    word.as_ref().map(Spanned::span)
}

/// A VLAN identifier.
pub fn vid(value: i64, at: Span, faults: &mut Faults) -> Option<Vid> {
    let vid = u16::try_from(value).ok().and_then(Vid::new);
    if vid.is_none() {
        faults.push(Fault::at(at, format!("{value} is not a VID")).help("VIDs run from 1 to 4094"));
    }
    vid
}

/// The address of a station: neither a group's nor zero.
pub fn station(text: &str, at: Span, faults: &mut Faults) -> Option<Mac> {
    let mac = destination(text, at.clone(), faults)?;
    if mac.is_group() {
        faults.push(
            Fault::at(at, format!("{mac} is a group address"))
                .help("the first octet of a station's address is even"),
        );
        return None;
    }
    Some(mac)
}

/// An address that a frame can be sent to: that of a station, of a group, or everybody's.
pub fn destination(text: &str, at: Span, faults: &mut Faults) -> Option<Mac> {
    let mac = address(text, at.clone(), faults)?;
    if mac.is_zero() {
        faults.push(
            Fault::at(at, "the zero address belongs to nobody")
                .help("a locally administered address is one such as 52:54:00:00:00:01"),
        );
        return None;
    }
    Some(mac)
}

/// The address of a multicast group.
pub fn group_address(text: &str, at: Span, faults: &mut Faults) -> Option<Mac> {
    let mac = address(text, at.clone(), faults)?;
    if !mac.is_group() || mac.is_broadcast() {
        faults.push(
            Fault::at(at, format!("{mac} is not a multicast group"))
                .help("a group address is one such as 01:00:5e:01:02:03"),
        );
        return None;
    }
    Some(mac)
}

fn address(text: &str, at: Span, faults: &mut Faults) -> Option<Mac> {
    match text.parse() {
        Ok(mac) => Some(mac),
        Err(error) => {
            faults.push(
                Fault::at(at, format!("`{text}` is not a MAC address")).help(error.to_string()),
            );
            None
        }
    }
}

/// The addresses of stations in a list, each with its place.
pub fn stations(words: &Words<String>, faults: &mut Faults) -> Vec<(Mac, Span)> {
    let mut macs: Vec<(Mac, Span)> = Vec::new();
    for item in words.iter().flat_map(Spanned::get_ref) {
        let Some(mac) = station(item.get_ref(), item.span(), faults) else {
            continue;
        };
        if let Some((_, first)) = macs.iter().find(|(other, _)| *other == mac) {
            faults.push(
                Fault::at(item.span(), format!("{mac} is listed twice"))
                    .with(first.clone(), "first here")
                    .help("list each address once"),
            );
        } else {
            macs.push((mac, item.span()));
        }
    }
    macs
}

/// The name of something, once expanded; `kind` is how a sentence calls it.
pub fn check_name(name: &str, kind: &str, at: Span, faults: &mut Faults) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.:@".contains(c);
    let fault = if name.is_empty() {
        Fault::at(at, format!("the name of a {kind} is empty"))
    } else if name.len() > NAME_MAX {
        Fault::at(
            at,
            format!("the name of a {kind} is longer than {NAME_MAX} bytes"),
        )
    } else if let Some(odd) = name.chars().find(|c| !fits(*c)) {
        Fault::at(at, format!("the name of a {kind} cannot hold {odd:?}"))
    } else {
        return;
    };
    faults.push(fault.help("names are made of letters, digits and any of `_ - . : @`"));
}

/// The path of a socket.
pub fn socket(path: &str, at: Span, faults: &mut Faults) -> Option<PathBuf> {
    match socket_path(Path::new(path)) {
        Ok(path) => Some(path),
        Err((wrong, right)) => {
            faults.push(Fault::at(at, wrong).help(right));
            None
        }
    }
}

/// The path of a socket, or what is wrong with it and what would be right.
pub fn socket_path(path: &Path) -> Result<PathBuf, (&'static str, &'static str)> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !path.is_absolute() {
        return Err((
            "the path of a socket is relative",
            "write the whole path, such as /run/evb/vm1.sock: where the daemon runs should not matter",
        ));
    }
    if bytes.len() > SOCKET_PATH_MAX {
        return Err((
            "the path of a socket is too long",
            "the kernel takes at most 107 bytes: use a directory nearer to the root",
        ));
    }
    if bytes.contains(&0) {
        return Err(("the path of a socket holds a zero byte", "leave it out"));
    }
    if bytes.ends_with(b"/") || path.file_name().is_none() {
        return Err((
            "the path of a socket names a directory",
            "name the socket itself, such as /run/evb/vm1.sock",
        ));
    }
    Ok(path.to_owned())
}

/// The path of a directory.
pub fn directory(path: &str, at: Span, faults: &mut Faults) -> Option<PathBuf> {
    let (wrong, right) = if !path.starts_with('/') {
        (
            "the path of a directory is relative",
            "write the whole path, such as /run/evb: where the daemon runs should not matter",
        )
    } else if path.contains('\0') {
        ("the path of a directory holds a zero byte", "leave it out")
    } else {
        return Some(PathBuf::from(path));
    };
    faults.push(Fault::at(at, wrong).help(right));
    None
}

/// The name of a network device.
pub fn device(word: &Word<String>, key: &str, table: &Span, faults: &mut Faults) -> Option<String> {
    let Some(word) = word else {
        faults.push(
            Fault::at(table.clone(), format!("`{key}` is missing"))
                .help(format!("name the network device: `{key} = \"eth1\"`")),
        );
        return None;
    };
    check_device(word.get_ref(), word.span(), faults).then(|| word.get_ref().clone())
}

/// Whether this can be the name of a network device.
pub fn check_device(name: &str, at: Span, faults: &mut Faults) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    let fits = (1..=DEVICE_NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(odd);
    if !fits {
        faults.push(
            Fault::at(
                at,
                format!(
                    "`{}` cannot be the name of a network device",
                    name.escape_debug()
                ),
            )
            .help("such a name has 1 to 15 bytes, and no blank, `/`, `:` or `%`"),
        );
    }
    fits
}

/// A fault for a name that is not there, with the nearest that is.
pub fn unknown<'a>(
    kind: &str,
    name: &str,
    at: Span,
    known: impl IntoIterator<Item = &'a str>,
) -> Fault {
    let hint = suggest(name, known)
        .unwrap_or_else(|| format!("declare it: `[[{kind}]]` with `name = \"{name}\"`"));
    Fault::at(at, format!("there is no {kind} `{name}`")).help(hint)
}
