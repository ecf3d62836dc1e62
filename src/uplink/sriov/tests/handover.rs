//! Functions handed to virtual machines and taken back, and files that hold anything.

use std::fs;

use super::{OTHER, address, refusal, spec};
use crate::uplink::sriov::error::{HandoverError, SriovError};
use crate::uplink::sriov::handover::{VFIO, bind, unbind};
use crate::uplink::sriov::host::Host;
use crate::uplink::sriov::prepare::prepare;
use crate::uplink::sriov::testing::{Machine, PF};

#[test]
fn a_function_is_handed_over_and_taken_back() {
    let machine = Machine::with_functions(2);
    bind(&machine, &address(1), None).unwrap();
    let expected = [
        "devices/0000:01:10.1/driver_override < vfio-pci",
        "devices/0000:01:10.1/driver/unbind < 0000:01:10.1",
        "drivers_probe < 0000:01:10.1",
    ];
    assert_eq!(machine.asked(), expected);
    assert_eq!(machine.driver_of("0000:01:10.1").as_deref(), Some(VFIO));
    bind(&machine, &address(1), None).unwrap();
    assert!(machine.asked().is_empty());

    let driver = unbind(&machine, &address(1)).unwrap();
    assert_eq!(driver.as_deref(), Some("igbvf"));
    let expected = [
        "devices/0000:01:10.1/driver_override <",
        "devices/0000:01:10.1/driver/unbind < 0000:01:10.1",
        "drivers_probe < 0000:01:10.1",
    ];
    assert_eq!(
        machine
            .asked()
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>(),
        expected
    );
    assert_eq!(machine.driver_of("0000:01:10.0").as_deref(), Some("igbvf"));
    prepare(&machine, &spec()).unwrap();
}

#[test]
fn what_cannot_be_handed_over_keeps_its_driver() {
    let after = |prepare: &dyn Fn(&Machine)| {
        let machine = Machine::with_functions(2);
        prepare(&machine);
        let error = bind(&machine, &address(1), Some(OTHER)).unwrap_err();
        let driver = machine.driver_of("0000:01:10.1");
        assert_eq!(driver.as_deref(), Some("igbvf"), "{error}");
        error.to_string()
    };
    let text = after(&|machine| {
        fs::remove_file(machine.path("bus/pci/devices/0000:01:10.1/iommu_group")).unwrap();
    });
    assert!(
        text.starts_with("0000:01:10.1 is in no IOMMU group; switch the IOMMU on"),
        "{text}"
    );
    let text =
        after(&|machine| fs::remove_dir_all(machine.path("bus/pci/drivers/vfio-pci")).unwrap());
    assert_eq!(
        text,
        "there is no driver vfio-pci; load it with `modprobe vfio-pci`"
    );
    let text = after(&|machine| machine.file("class/net/eth1v1/flags", "0x1003\n"));
    assert_eq!(
        text,
        "0000:01:10.1 is the host's eth1v1, which is up; run `ip link set dev eth1v1 down` if nobody needs it, \
         or choose another"
    );
    let text = after(&|machine| {
        machine.inner.borrow_mut().refused = vec![("mac", libc::EINVAL)];
    });
    assert!(
        text.ends_with("; choose another unicast address for `mac`"),
        "{text}"
    );
    let text = after(&|machine| {
        machine.inner.borrow_mut().refused = vec![("driver_override", libc::EACCES)];
    });
    assert!(
        text.contains("driver_override: Permission denied"),
        "{text}"
    );
    assert!(text.ends_with("; run it as root"), "{text}");
    let text = after(&|machine| {
        machine.inner.borrow_mut().refused = vec![("driver/unbind", libc::EPERM)];
    });
    assert!(text.ends_with("; run it as root"), "{text}");
    let text = after(&|machine| {
        machine.inner.borrow_mut().refused = vec![(VFIO, libc::ENODEV)];
    });
    assert_eq!(
        text,
        "vfio-pci did not take 0000:01:10.1; look into the kernel's log with `dmesg`"
    );
}

#[test]
fn what_is_not_handed_over_is_not_taken_back() {
    let machine = Machine::with_functions(2);
    let text = unbind(&machine, &address(1)).unwrap_err().to_string();
    assert_eq!(
        text,
        "0000:01:10.1 is not bound to vfio-pci; there is nothing to take back"
    );
    for wrong in [PF, "0000:07:00.0"] {
        let wrong = wrong.parse().unwrap();
        for error in [
            bind(&machine, &wrong, None).unwrap_err(),
            unbind(&machine, &wrong).unwrap_err(),
        ] {
            assert!(matches!(error, HandoverError::NotVirtual { .. }), "{error}");
        }
    }
    bind(&machine, &address(1), None).unwrap();
    machine.inner.borrow_mut().used_group = Some(21);
    let text = unbind(&machine, &address(1)).unwrap_err().to_string();
    assert_eq!(
        text,
        "a virtual machine uses 0000:01:10.1; stop it, or unplug the function there"
    );
    machine.inner.borrow_mut().used_group = Some(20);
    machine.inner.borrow_mut().driver = None;
    assert_eq!(unbind(&machine, &address(1)).unwrap(), None);
}

#[test]
fn files_may_hold_anything() {
    let pf = format!("bus/pci/devices/{PF}");
    let vf = "bus/pci/devices/0000:01:10.1";
    let contents: [&[u8]; 6] = [
        b"",
        b"-1\n",
        b"99999999999",
        b"\xff\xfe\x00",
        b"7\x00",
        &[b'9'; 10_000],
    ];
    for file in [format!("{pf}/sriov_totalvfs"), format!("{pf}/sriov_numvfs")] {
        for content in contents {
            let machine = Machine::with_functions(2);
            machine.file(&file, content);
            let error = machine.sysfs().physical_functions().unwrap_err();
            assert!(
                matches!(error, SriovError::Strange { .. }),
                "{file}: {error}"
            );
            assert!(prepare(&machine, &spec()).is_err());
            assert!(bind(&machine, &address(1), None).is_err());
        }
    }
    for content in contents {
        let machine = Machine::with_functions(2);
        machine.file("class/net/eth1v1/flags", content);
        // A 7 is a number of flags all right.
        assert!(bind(&machine, &address(1), None).is_err(), "{content:?}");
    }
    let links = [
        format!("{pf}/virtfn1"),
        format!("{pf}/virtfn65536"),
        format!("{pf}/driver"),
        format!("{vf}/driver"),
        format!("{vf}/iommu_group"),
        format!("{vf}/physfn"),
        "class/net/eth1/device".to_owned(),
    ];
    for link in &links {
        for target in [
            "/",
            "..",
            "nowhere",
            "\u{1b}[2J",
            "../../../../../../etc/passwd",
        ] {
            let machine = Machine::with_functions(2);
            machine.link(link, target);
            // Whatever comes of it: nothing outside the machine is touched, and nothing panics.
            let _ = machine.sysfs().physical_functions();
            let _ = prepare(&machine, &spec());
            let _ = bind(&machine, &address(1), None);
            let _ = unbind(&machine, &address(1));
        }
    }
    let machine = Machine::with_functions(2);
    let net = machine.path(vf).join("net");
    fs::remove_dir_all(&net).unwrap();
    for name in ["a b", "eth1:0", "a-name-that-is-too-long"] {
        fs::create_dir_all(net.join(name)).unwrap();
    }
    assert!(refusal(&machine, &spec()).contains("no network device"));
}
