//! Any text as a configuration: an error that can be shown, or a configuration.
#![no_main]

use evb::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = Config::parse(text, "evb.toml") {
        assert!(errors.to_string().starts_with("error: "));
    }
});
