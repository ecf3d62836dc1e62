//! The reference is complete, and its examples are valid.

use std::collections::BTreeSet;

use super::valid;

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
