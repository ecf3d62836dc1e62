//! MAC addresses.

use std::fmt;
use std::str::FromStr;

/// A 48-bit MAC address.
///
/// Kept as a number, which is what look-up and comparison want.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(u64);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Mac = Mac::from_u64(u64::MAX);

    /// The address with these octets, in the order of transmission.
    #[inline]
    pub const fn new(octets: [u8; 6]) -> Mac {
        let [a, b, rest @ ..] = octets;
        Mac((u16::from_be_bytes([a, b]) as u64) << 32 | u32::from_be_bytes(rest) as u64)
    }

    /// The address whose number is the low 48 bits of `number`.
    #[inline]
    pub const fn from_u64(number: u64) -> Mac {
        Mac(number & 0xffff_ffff_ffff)
    }

    /// The octets in the order of transmission.
    pub const fn octets(self) -> [u8; 6] {
        let [_, _, octets @ ..] = self.0.to_be_bytes();
        octets
    }

    /// The address as a number below 2^48.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// Whether it is a group address: multicast or broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0 >> 40 & 1 != 0
    }

    /// Whether it is the broadcast address.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        self.0 == Mac::BROADCAST.0
    }

    /// Whether all its octets are zero.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<[u8; 6]> for Mac {
    fn from(octets: [u8; 6]) -> Mac {
        Mac::new(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, others @ ..] = self.octets();
        write!(f, "{first:02x}")?;
        others
            .iter()
            .try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits, such as 52:54:00:00:00:01")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    /// Accepts six two-digit groups separated by `:` throughout or by `-` throughout.
    fn from_str(text: &str) -> Result<Mac, MacError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut groups = text.split(separator);
        for octet in &mut octets {
            let group = groups.next().ok_or(MacError)?;
            if group.len() != 2 || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *octet = u8::from_str_radix(group, 16).map_err(|_| MacError)?;
        }
        match groups.next() {
            None => Ok(Mac::new(octets)),
            Some(_) => Err(MacError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mac, MacError};

    #[test]
    fn text_and_numbers_round_trip() {
        let mac: Mac = "52:54:00:aB:cd:01".parse().unwrap();
        assert_eq!(mac.octets(), [0x52, 0x54, 0, 0xab, 0xcd, 1]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        assert_eq!(mac.to_u64(), 0x5254_00ab_cd01);
        assert_eq!(Mac::from_u64(mac.to_u64()), mac);
        assert_eq!("52-54-00-ab-cd-01".parse(), Ok(mac));
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:01:02",
            "52:54:00:00:00:1",
            "52:54:00:00:00:+1",
            "52:54:00-00:00:01",
            "525400000001",
            "52:54:00:00:00:0g",
            "é2:54:00:00:00:01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn kinds_of_address() {
        assert!(Mac::BROADCAST.is_broadcast() && Mac::BROADCAST.is_group());
        let multicast = Mac::new([0x33, 0x33, 0, 0, 0, 1]);
        assert!(multicast.is_group() && !multicast.is_broadcast());
        assert!(Mac::default().is_zero() && !Mac::default().is_group());
    }
}
