//! Addresses of devices for which none is configured.

use crate::support::eventually;
use crate::support::netns::{in_namespace, ip};
use crate::{config, expect_state, start};

fn address(device: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/address")).ok()?;
    Some(text.trim().to_owned())
}

#[test]
fn the_host_port_has_its_address_again_after_a_restart_and_after_its_removal() {
    in_namespace(|| {
        let text = config(
            &[],
            "[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = { name = \"evb0\" }\n",
        );
        let net = start(&text, &["host"]);
        let first = address("evb0");
        assert!(first.is_some());
        net.evb.stop();
        assert_eq!(address("evb0"), None);
        let net = start(&text, &["host"]);
        assert_eq!(address("evb0"), first);
        ip("link delete evb0");
        eventually("evb0 is back", || {
            address("evb0").filter(|now| Some(now) == first.as_ref())
        });
        expect_state(&net.evb, "host", "running");
        net.evb.stop();
    });
}
