//! Load ports: what their words come to.

use super::{mac, valid, vid};
use crate::config::{Backend, Generator};
use crate::load::{Flow, Rate};
use crate::relay::{MacPolicy, VlanConfig};

fn generator(words: &str) -> Generator {
    let text = format!(
        "[[relay]]\nname = \"r\"\n[[port]]\nname = \"gen\"\ntrunk = [10]\ngenerator = {{ {words} }}\n"
    );
    match valid(&text).ports.remove("gen").map(|port| port.backend) {
        Some(Backend::Generator(generator)) => generator,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_generator_has_defaults() {
    let words = r#"dst = "52:54:00:00:00:01", src = "52:54:00:00:01:01""#;
    let expected = Generator {
        rate: Rate::Max,
        sizes: vec![64],
        flows: vec![Flow {
            dst: mac("52:54:00:00:00:01"),
            src: mac("52:54:00:00:01:01"),
            vid: None,
        }],
        start: true,
    };
    assert_eq!(generator(words), expected);
}

#[test]
fn flows_are_counted_up_or_listed() {
    let words = r#"dst = "ff:ff:ff:ff:ff:fe", src = "52:54:00:00:01:ff", vid = 10, flows = 2,
        rate = "10Gbit", sizes = [64, 9216], start = false"#;
    let words = words.replace('\n', " ");
    let flow = |dst, src| Flow {
        dst: mac(dst),
        src: mac(src),
        vid: Some(vid(10)),
    };
    let expected = Generator {
        rate: Rate::Bits(10_000_000_000),
        sizes: vec![64, 9216],
        flows: vec![
            flow("ff:ff:ff:ff:ff:fe", "52:54:00:00:01:ff"),
            flow("ff:ff:ff:ff:ff:ff", "52:54:00:00:02:00"),
        ],
        start: false,
    };
    assert_eq!(generator(&words), expected);
    let words = r#"flows = [{ dst = "52:54:00:00:00:09", src = "52:54:00:00:00:0a", vid = 10 }]"#;
    let expected = [flow("52:54:00:00:00:09", "52:54:00:00:00:0a")];
    assert_eq!(generator(words).flows, expected);
}

#[test]
fn a_generator_may_use_the_addresses_of_its_flows() {
    let config = valid(
        r#"
        [[relay]]
        name = "r"
        [[port]]
        name = "few"
        access = 10
        generator = { dst = "52:54:00:00:00:01", src = "52:54:00:00:01:01", flows = 2 }
        [[port]]
        name = "many"
        access = 10
        generator = { dst = "52:54:00:00:00:01", src = "52:54:00:01:00:00", flows = 5000 }
        [[port]]
        name = "strict"
        access = 10
        mac_policy = { learn = 3 }
        generator = { dst = "52:54:00:00:00:01", src = "52:54:00:02:00:00", flows = 5000 }
        [[port]]
        name = "sink{n}"
        count = 2
        access = 10
        sink = true
        "#,
    );
    let policy = |name: &str| config.ports[name].settings.mac_policy;
    assert_eq!(policy("few"), MacPolicy::Trusted { limit: 1024 });
    assert_eq!(policy("many"), MacPolicy::Trusted { limit: 5000 });
    assert_eq!(policy("strict"), MacPolicy::Learn(3));
    let sink = &config.ports["sink2"];
    assert_eq!((&sink.backend, sink.queues), (&Backend::Sink, 1));
    assert_eq!(sink.settings.vlan, VlanConfig::Access(vid(10)));
}
