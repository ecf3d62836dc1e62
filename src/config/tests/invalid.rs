//! Every invalid configuration with the exact text that the user gets to see.
//!
//! The cases stand in `invalid/*.txt`: a line `### what`, the configuration, a line `---`, and the
//! expected text. `EVB_BLESS=1 cargo test --lib config` rewrites the expected texts.

use std::fmt::Write;
use std::path::Path;

use crate::config::{Config, Fault};

/// Title, configuration, expected text.
type Case = (String, String, String);

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for case in text.split("### ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a case has a title");
        let (input, expected) = rest.split_once("---\n").unwrap_or((rest, ""));
        let expected = expected.trim_end().to_owned();
        cases.push((title.to_owned(), input.to_owned(), expected));
    }
    cases
}

fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/config/tests/invalid")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut blessed = String::new();
    let mut wrong = Vec::new();
    for (title, input, expected) in cases(&text) {
        let shown = match Config::parse(&input, "evb.toml") {
            Ok(_) => "accepted".to_owned(),
            Err(errors) => errors.to_string(),
        };
        let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
        let shown = shown.join("\n");
        if shown != expected {
            wrong.push(format!(
                "### {title}\n--- expected\n{expected}\n--- shown\n{shown}"
            ));
        }
        assert_ne!(shown, "accepted", "{title}\n{input}");
        writeln!(blessed, "### {title}\n{input}---\n{shown}\n").unwrap();
    }
    if std::env::var_os("EVB_BLESS").is_some() {
        std::fs::write(&path, blessed.trim_end().to_owned() + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n\n"));
    }
}

#[test]
fn load_ports() {
    check("load.txt");
}

#[test]
fn text() {
    check("text.txt");
}

#[test]
fn daemon_and_relays() {
    check("relay.txt");
}

#[test]
fn ports_and_groups() {
    check("port.txt");
}

#[test]
fn addresses() {
    check("address.txt");
}

#[test]
fn vlans() {
    check("vlan.txt");
}

#[test]
fn uplinks() {
    check("uplink.txt");
}

#[test]
fn patches() {
    check("patch.txt");
}

#[test]
fn a_flood_of_faults_is_cut() {
    let text = "[[relay]]\nageing = -1\n".repeat(40);
    let errors = Config::parse(&text, "evb.toml").unwrap_err();
    assert_eq!(errors.faults().len(), 80);
    assert!(
        errors
            .to_string()
            .ends_with("\n\nerror: 30 more like these")
    );
    let places: Vec<_> = errors.faults().iter().filter_map(Fault::span).collect();
    assert!(places.is_sorted_by_key(|span| span.start));
    assert_eq!(errors.faults()[0].title(), "a relay needs a name");
}
