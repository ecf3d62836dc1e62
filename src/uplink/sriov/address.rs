//! The address of a PCI function.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of a PCI function, such as `0000:01:10.2`: domain, bus, device and function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// Text that is no address of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address; write it as in 0000:01:10.2")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.chars().take(32).collect());
        let (domain, rest) = text.split_once(':').ok_or_else(bad)?;
        let (bus, rest) = rest.split_once(':').ok_or_else(bad)?;
        let (device, function) = rest.split_once('.').ok_or_else(bad)?;
        let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
            digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        // Domains of more than 16 bits belong to virtual controllers (VMD).
        let good = hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2);
        if good && hex(function, 1..=1) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(bad())
        }
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses_are_of_pci_functions() {
        for good in ["0000:01:10.2", "10000:e1:00.0", "0000:AF:1f.7"] {
            let address: Address = good.parse().unwrap();
            assert_eq!(address.to_string(), good.to_ascii_lowercase());
        }
        for bad in [
            "",
            "virtio3",
            "01:10.2",
            "0000:01:10",
            "0000:01:10.",
            "0000:1:10.2",
            "../0:01:10.2",
            "0000:01:10.22",
            "0000:01:1/.2",
            "1-1.4:1.0",
            "0000:\u{661}1:10.2",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
