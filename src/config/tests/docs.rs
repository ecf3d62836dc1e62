//! The reference is complete, and its examples and the configurations that are shipped are valid.

use std::collections::BTreeSet;
use std::path::Path;

use super::valid;
use crate::config::Config;

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

#[test]
fn every_example_is_valid() {
    let examples = REFERENCE.split("```toml\n").skip(1);
    let examples: Vec<_> = examples
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 8);
    for example in examples {
        valid(example);
    }
}

#[test]
fn every_key_is_described() {
    let keys: BTreeSet<&str> = include_str!("../file.rs")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": Word"))
        .map(|(key, _)| if key == "fixed" { "static" } else { key })
        .collect();
    assert!(keys.contains("listen") && keys.contains("static") && keys.len() > 50);
    let words: BTreeSet<&str> = REFERENCE
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    let missing: Vec<_> = keys.difference(&words).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Checks all configurations in a directory and below; how many.
fn check_all(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| match path.extension() {
            _ if path.is_dir() => check_all(&path),
            Some(end) if end == "toml" => {
                if let Err(errors) = Config::load(&path) {
                    panic!("{errors}");
                }
                1
            }
            _ => 0,
        })
        .sum()
}

#[test]
fn every_shipped_configuration_is_valid() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu-configs");
    assert!(check_all(&shipped) >= 30);
}
