//! The room as a whole: text in, configuration or shown faults out.

mod comparison;
mod diff;
mod docs;
mod fuzz;
mod invalid;
mod links;
mod load;
mod sources;
mod specs;
mod valid;

use super::Config;
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::relay::VidSet;

/// The configuration in `text`, which must be valid.
#[track_caller]
fn valid(text: &str) -> Config {
    match Config::parse(text, "evb.toml") {
        Ok(config) => config,
        Err(errors) => panic!("{text}\n{errors}"),
    }
}

fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

fn vids(numbers: impl IntoIterator<Item = u16>) -> VidSet {
    numbers.into_iter().map(vid).collect()
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}
