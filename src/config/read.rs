//! From text to the file form, table by table, so that a mistake in one does not hide those in the
//! others.
//!
//! Syntax errors stop the reading: what stands behind them cannot be trusted. A table that does not
//! fit is left out and its name kept in [`Broken`], lest everything that mentions it be reported too.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::file::{DaemonTable, PatchTable, PortTable, RelayTable, UplinkTable};
use super::report::{Fault, Span, suggest};

/// The tables of a file that could be read.
#[derive(Debug, Default)]
pub struct File {
    pub daemon: Option<DaemonTable>,
    pub relays: Vec<Spanned<RelayTable>>,
    pub ports: Vec<Spanned<PortTable>>,
    pub groups: Vec<Spanned<PortTable>>,
    pub patches: Vec<Spanned<PatchTable>>,
    pub uplinks: Vec<Spanned<UplinkTable>>,
    pub broken: Broken,
}

/// What is known of the tables that could not be read.
#[derive(Debug, Default)]
pub struct Broken {
    names: HashSet<(&'static str, String)>,
    kinds: HashSet<&'static str>,
}

impl Broken {
    /// Whether a table of this kind and name is there, but unreadable.
    pub fn has(&self, kind: &'static str, name: &str) -> bool {
        self.names.contains(&(kind, name.to_owned()))
    }

    /// Whether some table of this kind is unreadable.
    pub fn any(&self, kind: &'static str) -> bool {
        self.kinds.contains(kind)
    }

    /// Names of the unreadable tables of this kind, where they have one.
    pub fn names(&self, kind: &'static str) -> Vec<String> {
        let mine = self.names.iter().filter(|(other, _)| *other == kind);
        mine.map(|(_, name)| name.clone()).collect()
    }

    /// Notes that a table had to be left out.
    pub fn add(&mut self, kind: &'static str, name: Option<&str>) {
        self.kinds.insert(kind);
        if let Some(name) = name {
            self.names.insert((kind, name.to_owned()));
        }
    }
}

const WORDS: [&str; 6] = ["daemon", "relay", "port", "group", "patch", "uplink"];

/// Reads what can be read and adds to `faults` what cannot.
pub fn read(text: &str, faults: &mut Vec<Fault>) -> File {
    let mut file = File::default();
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        faults.extend(errors.iter().map(|error| syntax(text, error)));
        return file;
    }
    for (key, value) in root.into_inner() {
        let at = key.span();
        match key.get_ref().as_ref() {
            "daemon" => file.daemon = daemon(value, faults),
            "relay" => file.relays = list("relay", at, value, &mut file.broken, faults),
            "port" => file.ports = list("port", at, value, &mut file.broken, faults),
            "group" => file.groups = list("group", at, value, &mut file.broken, faults),
            "patch" => file.patches = list("patch", at, value, &mut file.broken, faults),
            "uplink" => file.uplinks = list("uplink", at, value, &mut file.broken, faults),
            other => {
                let hint = suggest(other, WORDS).unwrap_or_default();
                faults.push(Fault::at(at, format!("unknown table `{other}`")).help(hint));
            }
        }
    }
    file
}

fn daemon(value: Spanned<DeValue<'_>>, faults: &mut Vec<Fault>) -> Option<DaemonTable> {
    let at = value.span();
    if value.get_ref().is_array() {
        faults.push(
            Fault::at(at, "`daemon` is one table, not a list").help("write `[daemon]`, once"),
        );
        return None;
    }
    fit(value, faults)
}

/// The table, or all that does not fit in it: after each misfit the reading is tried again without
/// the key.
fn fit<T: DeserializeOwned>(mut value: Spanned<DeValue<'_>>, faults: &mut Vec<Fault>) -> Option<T> {
    let before = faults.len();
    loop {
        let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(table) => return (faults.len() == before).then_some(table),
            Err(error) => error,
        };
        faults.push(misfit(&value.span(), &error));
        let (DeValue::Table(table), Some(at)) = (value.get_mut(), error.span()) else {
            return None;
        };
        let holds = |span: Span| span.start <= at.start && at.end <= span.end;
        let key = table
            .iter()
            .find(|(key, item)| holds(key.span()) || holds(item.span()));
        let key = key.map(|(key, _)| key.clone())?;
        table.remove(&key);
    }
}

fn list<T: DeserializeOwned>(
    kind: &'static str,
    at: Span,
    value: Spanned<DeValue<'_>>,
    broken: &mut Broken,
    faults: &mut Vec<Fault>,
) -> Vec<Spanned<T>> {
    let DeValue::Array(items) = value.into_inner() else {
        faults.push(
            Fault::at(at, format!("there can be many `{kind}` tables"))
                .help(format!("write `[[{kind}]]`, in two pairs of brackets")),
        );
        broken.add(kind, None);
        return Vec::new();
    };
    let mut tables = Vec::new();
    for item in items {
        let at = item.span();
        let name = item
            .get_ref()
            .get("name")
            .and_then(|name| name.get_ref().as_str());
        let name = name.map(str::to_owned);
        match fit(item, faults) {
            Some(table) => tables.push(Spanned::new(at, table)),
            None => broken.add(kind, name.as_deref()),
        }
    }
    tables
}

/// A fault for text that is not TOML.
fn syntax(text: &str, error: &toml::de::Error) -> Fault {
    let at = error.span().unwrap_or(text.len()..text.len());
    let (wrong, right) = halves(error.message());
    let fault = Fault::at(at, format!("not valid TOML: {wrong}"));
    match right {
        Some(right) => fault.help(format!("expected {right}")),
        None => fault,
    }
}

/// A fault for a table that has a word it should not have, or a word of another type.
fn misfit(table: &Span, error: &toml::de::Error) -> Fault {
    let at = error.span().unwrap_or_else(|| table.clone());
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let wrong = quoted.next().unwrap_or_default();
        let fault = Fault::at(at, format!("unknown key `{wrong}`"));
        return match suggest(wrong, quoted) {
            Some(hint) => fault.help(hint),
            None => fault,
        };
    }
    let (wrong, right) = halves(message);
    let wrong = wrong
        .replace("invalid type: ", "wrong type: ")
        .replace("invalid value: ", "wrong value: ")
        .replace(" as i128", "");
    let fault = Fault::at(at, wrong);
    match right {
        Some("i64") => fault.help("expected a whole number"),
        Some("a sequence") => fault.help("expected a list: `[…]`"),
        Some("a map") => fault.help("expected a table: `{ … }`"),
        Some(right) => fault.help(format!("expected {right}")),
        None => fault,
    }
}

/// What a message says is wrong, and what it says would be right.
fn halves(message: &str) -> (&str, Option<&str>) {
    match message.rsplit_once(", expected ") {
        Some((wrong, right)) => (wrong, Some(right)),
        None => (message, None),
    }
}
