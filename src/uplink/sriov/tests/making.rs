//! Functions that are made, and what a NIC refuses meanwhile.

use super::{refusal, spec};
use crate::uplink::sriov::prepare::prepare;
use crate::uplink::sriov::spec::{FunctionSettings, SriovSpec};
use crate::uplink::sriov::testing::{Machine, PF};

#[test]
fn functions_are_made_where_there_are_none() {
    let machine = Machine::new();
    let spec = SriovSpec {
        create: Some(4),
        ..spec()
    };
    drop(prepare(&machine, &spec).unwrap());
    assert_eq!(machine.asked()[0], format!("devices/{PF}/sriov_numvfs < 4"));
    drop(prepare(&machine, &spec).unwrap());
    assert_eq!(machine.asked(), ["eth1v1 up true silent true"]);
    assert_eq!(machine.inner.borrow().pauses, 0);

    for (errno, remedy) in [
        (libc::ERANGE, "ask for 7 at most"),
        (libc::EACCES, "run it as root"),
        (
            libc::EROFS,
            "sysfs is mounted read-only here: run it on the host, or give the container a writable one",
        ),
        (
            libc::ENOMEM,
            "ask for fewer, or start Linux with `pci=realloc,assign-busses`",
        ),
        (
            libc::ENOENT,
            "its driver makes none: look for an option of the driver's module, such as `max_vfs`",
        ),
    ] {
        let machine = Machine::new();
        machine.inner.borrow_mut().refused = vec![("sriov_numvfs", errno)];
        let text = refusal(&machine, &spec);
        assert!(
            text.starts_with("eth1 cannot have 4 virtual functions: "),
            "{text}"
        );
        assert!(text.ends_with(&format!("; {remedy}")), "{text}");
    }
}

#[test]
fn a_rate_waits_for_the_link_that_went_while_functions_were_made() {
    let spec = SriovSpec {
        create: Some(4),
        settings: FunctionSettings {
            rate: Some(200),
            ..FunctionSettings::default()
        },
        ..spec()
    };
    let machine = |carrier: &str, reset| {
        let machine = Machine::new();
        machine.file("class/net/eth1/carrier", carrier);
        machine.inner.borrow_mut().reset = reset;
        machine
    };
    // The carrier is that of before all the time.
    let nic = machine("1\n", 3);
    drop(prepare(&nic, &spec).unwrap());
    assert_eq!(nic.inner.borrow().pauses, 3);
    let expected = "eth1 vf 1 max_tx_rate 200".to_owned();
    assert_eq!(
        nic.asked().iter().filter(|did| **did == expected).count(),
        1
    );
    // Nobody waits for ever, nor for a link that was not there.
    for (carrier, pauses) in [("1\n", 500), ("0\n", 0)] {
        let nic = machine(carrier, u32::MAX);
        let text = refusal(&nic, &spec);
        assert!(text.contains("whose link has to be up"), "{text}");
        assert_eq!(nic.inner.borrow().pauses, pauses);
    }
    // Functions that are there already come with no reset.
    let nic = machine("1\n", 0);
    drop(prepare(&nic, &spec).unwrap());
    nic.inner.borrow_mut().linkless = 1;
    let other = SriovSpec { vf: 2, ..spec };
    assert!(refusal(&nic, &other).contains("whose link has to be up"));
}
