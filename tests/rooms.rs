//! Holds the sources to docs/architecture.md: rooms import from lower floors only, and `unsafe` stays in
//! the two rooms that may hold it.

use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

/// The rooms by floor, from the ground up. `stats` has a floor to itself: `frame` names drop reasons.
const FLOORS: &[&[&str]] = &[
    &["sys"],
    &["stats"],
    &["frame"],
    &["relay", "load", "virtqueue"],
    &["uplink"],
    &["config", "api_types", "worker"],
    &["api", "cli", "vhost_user", "privileged", "agent"],
    &["daemon", "bench"],
    &["main", "lib"],
];

const UNSAFE_ROOMS: &[&str] = &["virtqueue", "sys"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// A token as far as this test can tell them apart.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    line: usize,
    /// Nothing stands before it on its line.
    leads: bool,
}

/// Splits Rust source into words and punctuation marks; comments and literals are left out.
fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut chars = source.chars().peekable();
    let (mut line, mut line_start) = (1, true);
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
            line_start = true;
            continue;
        }
        let leads = std::mem::take(&mut line_start);
        match c {
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|&c| c != '\n').is_some() {},
            '/' if chars.peek() == Some(&'*') => line += skip_block_comment(&mut chars),
            '"' => line += skip_string(&mut chars),
            '\'' => skip_char_or_lifetime(&mut chars),
            c if c.is_alphanumeric() || c == '_' => {
                let mut text = String::from(c);
                while let Some(c) = chars.next_if(|&c| c.is_alphanumeric() || c == '_') {
                    text.push(c);
                }
                let raw = matches!(text.as_str(), "r" | "br" | "cr");
                if raw && matches!(chars.peek(), Some('"' | '#')) {
                    line += skip_raw_string(&mut chars);
                } else {
                    found.push(Token { text, line, leads });
                }
            }
            c if c.is_whitespace() => {}
            c => found.push(Token {
                text: c.into(),
                line,
                leads,
            }),
        }
    }
    found
}

/// Each of these begins behind the opening mark, and counts the lines it passes.
fn skip_block_comment(chars: &mut Peekable<Chars>) -> usize {
    let (mut depth, mut lines, mut last) = (1, 0, ' ');
    chars.next();
    while depth > 0 {
        let Some(c) = chars.next() else { break };
        lines += usize::from(c == '\n');
        match (last, c) {
            ('*', '/') => (depth, last) = (depth - 1, ' '),
            ('/', '*') => (depth, last) = (depth + 1, ' '),
            _ => last = c,
        }
    }
    lines
}

fn skip_string(chars: &mut Peekable<Chars>) -> usize {
    let mut lines = 0;
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => lines += usize::from(chars.next() == Some('\n')),
            c => lines += usize::from(c == '\n'),
        }
    }
    lines
}

fn skip_raw_string(chars: &mut Peekable<Chars>) -> usize {
    let mut hashes = 0;
    while chars.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if chars.next_if_eq(&'"').is_none() {
        return 0; // a raw identifier
    }
    let (mut lines, mut closing) = (0, None);
    for c in chars {
        lines += usize::from(c == '\n');
        closing = match (closing, c) {
            (_, '"') => Some(0),
            (Some(n), '#') => Some(n + 1),
            _ => None,
        };
        if closing == Some(hashes) {
            break;
        }
    }
    lines
}

fn skip_char_or_lifetime(chars: &mut Peekable<Chars>) {
    let mut ahead = chars.clone();
    let first = ahead.next();
    if first == Some('\\') {
        ahead.next();
        while ahead.next().is_some_and(|c| c != '\'') {}
        *chars = ahead;
    } else if ahead.next() == Some('\'') {
        *chars = ahead;
    }
}

/// The rooms that a file names, each with its line. `depth` is how far its module is below the crate root.
fn imports(tokens: &[Token], depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let colons = |i: usize| text(i) == ":" && text(i + 1) == ":";
    for i in 0..tokens.len() {
        let root = if text(i) == "crate" && colons(i + 1) {
            Some(i + 3)
        } else if tokens[i].leads && matches!(text(i), "use" | "pub") {
            // A module of the file itself: only there is it known how far `super` reaches.
            let mut at = i + usize::from(text(i) == "pub") + 1;
            let mut up = 0;
            while text(at) == "super" && colons(at + 1) {
                (at, up) = (at + 3, up + 1);
            }
            (up >= depth && up > 0).then_some(at)
        } else {
            None
        };
        let Some(at) = root else { continue };
        if text(at) != "{" {
            found.push((text(at).to_owned(), tokens[at].line));
            continue;
        }
        let mut nesting = 0;
        for (k, token) in tokens.iter().enumerate().skip(at) {
            match token.text.as_str() {
                "{" => nesting += 1,
                "}" => nesting -= 1,
                "," => {}
                _ if nesting == 1 && matches!(text(k - 1), "{" | ",") => {
                    found.push((token.text.clone(), token.line));
                }
                _ => {}
            }
            if nesting == 0 {
                break;
            }
        }
    }
    found
}

/// The mistakes of one file, told as `path:line: what`.
fn mistakes(path: &str, source: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let room = parts[0];
    let Some(own) = floor(room) else {
        return vec![format!(
            "{path}: the room `{room}` has no floor in tests/rooms.rs"
        )];
    };
    let depth = parts
        .iter()
        .filter(|part| !["mod", "lib", "main"].contains(part))
        .count();
    let tokens = tokens(source);
    let mut said = Vec::new();
    for (name, line) in imports(&tokens, depth) {
        match floor(&name) {
            Some(other) if name != room && other >= own => {
                said.push(format!(
                    "{path}:{line}: `{room}` may not import from `{name}`"
                ));
            }
            _ => {} // lower, itself, or an item of the root (a macro, say)
        }
    }
    if !UNSAFE_ROOMS.contains(&room) {
        for token in tokens.iter().filter(|token| token.text == "unsafe") {
            said.push(format!(
                "{path}:{}: `unsafe` outside {UNSAFE_ROOMS:?}",
                token.line
            ));
        }
    }
    said
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn rooms_import_downward_and_unsafe_stays_in_its_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let said: Vec<String> = sources(&root)
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            mistakes(name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(said.is_empty(), "\n{}", said.join("\n"));
}

#[test]
fn a_mistake_is_found_however_it_is_written() {
    for (path, source) in [
        ("relay/mod.rs", "use crate::worker::Snapshot;"),
        ("relay/fdb.rs", "use crate::virtqueue;"),
        (
            "frame/mac.rs",
            "use crate::{\n    stats::DropReason,\n    relay::{Slot, fdb},\n};",
        ),
        ("frame/mac.rs", "fn f() -> crate::config::Config { g() }"),
        ("frame/mac.rs", "use super::super::daemon;"),
        ("frame/mod.rs", "pub use super::daemon::run;"),
        ("virtqueue/split/tests.rs", "use crate::worker::poll;"),
        ("worker/mod.rs", "fn f() { unsafe { g() } }"),
        (
            "worker/mod.rs",
            "// it's harmless\nlet c = '\"'; unsafe impl Send for X {}",
        ),
        ("attic/mod.rs", ""),
    ] {
        assert_eq!(mistakes(path, source).len(), 1, "{path}: {source}");
    }
}

#[test]
fn what_is_allowed_is_not_complained_about() {
    for (path, source) in [
        (
            "relay/mod.rs",
            "use crate::frame::mac::Mac;\nuse crate::relay::Slot;",
        ),
        ("daemon/mod.rs", "use crate::{api, config::Config, worker};"),
        (
            "frame/mac.rs",
            "use super::ethernet::Header;\nmod tests {\n    use super::super::vnet;\n}",
        ),
        ("main.rs", "use crate::daemon;"),
        (
            "relay/mod.rs",
            "//! crate::daemon, unsafe\n/* crate::daemon /* unsafe */ crate::api */",
        ),
        (
            "relay/mod.rs",
            "let s = \"crate::daemon \\\" unsafe\"; let r = r#\"crate::api \" unsafe\"#;",
        ),
        ("virtqueue/copy.rs", "fn f<'a>() { unsafe { g::<'a>() } }"),
        ("relay/mod.rs", "#![deny(unsafe_code)]"),
    ] {
        assert_eq!(
            mistakes(path, source),
            Vec::<String>::new(),
            "{path}: {source}"
        );
    }
}
