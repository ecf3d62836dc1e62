//! The commands on a machine made of files.

use clap::Parser;

use super::{Sriov, SriovCommandError};
use crate::cli::{Cli, Command};
use crate::uplink::sriov::testing::Machine;

fn run(machine: &Machine, words: &str) -> Result<String, SriovCommandError> {
    let words = ["evb", "sriov"].into_iter().chain(words.split_whitespace());
    let Command::Sriov(command) = Cli::try_parse_from(words).unwrap().command else {
        panic!("another command");
    };
    let mut out = vec![];
    command.execute(machine, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_list_for_people() {
    let machine = Machine::with_functions(2);
    run(&machine, "bind eth1 1 --mac 52:54:00:00:00:01").unwrap();
    let expected = "\
NIC    VF  ADDRESS       DRIVER    DEVICE  GROUP  MAC                VLAN  SPOOFCHK  TRUST  RATE
eth1  2/7  0000:01:00.0  igb       eth1
eth1    0  0000:01:10.0  igbvf     eth1v0     20  -                     0  on        off       0
eth1    1  0000:01:10.1  vfio-pci  -          21  52:54:00:00:00:01     0  on        off       0
";
    assert_eq!(run(&machine, "list").unwrap(), expected);
}

#[test]
fn a_list_for_programs() {
    let machine = Machine::with_functions(1);
    let list: serde_json::Value =
        serde_json::from_str(&run(&machine, "list --json").unwrap()).unwrap();
    let expected = serde_json::json!([{
        "address": "0000:01:00.0", "device": "eth1", "driver": "igb", "total": 7, "made": 1,
        "functions": [{
            "number": 0, "address": "0000:01:10.0", "device": "eth1v0", "driver": "igbvf",
            "iommu_group": 20,
            "state": {"mac": "00:00:00:00:00:00", "vlan": 0, "spoofchk": true, "trust": false, "rate": 0},
        }],
    }]);
    assert_eq!(list, expected);
}

#[test]
fn a_function_is_named_by_its_nic_or_by_its_address() {
    let machine = Machine::with_functions(2);
    assert_eq!(
        run(&machine, "bind 0000:01:10.1").unwrap(),
        "0000:01:10.1: vfio-pci\n"
    );
    assert_eq!(
        run(&machine, "unbind eth1 1").unwrap(),
        "0000:01:10.1: igbvf\n"
    );
    let wrong = [
        ("bind eth1", "eth1 is neither a PCI address"),
        ("bind eth1 2", "there is no VF 2: eth1 has 2;"),
        ("bind 0000:01:00.0", "0000:01:00.0 is no virtual function;"),
        ("unbind eth1 0", "0000:01:10.0 is not bound to vfio-pci;"),
        ("args eth7 0", "there is no device eth7"),
    ];
    for (words, start) in wrong {
        let text = run(&machine, words).unwrap_err().to_string();
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn arguments_pass_a_function_on() {
    let machine = Machine::with_functions(2);
    let qemu = run(&machine, "args eth1 1").unwrap();
    assert_eq!(qemu, "-device vfio-pci,host=0000:01:10.1\n");
    let other = run(&machine, "args eth1 1 --vmm cloud-hypervisor").unwrap();
    assert_eq!(other, "--device path=/sys/bus/pci/devices/0000:01:10.1/\n");
}

#[test]
fn a_failover_pair_shares_its_address() {
    let machine = Machine::with_functions(2);
    let words = "args eth1 1 --standby /run/evb/a,b.sock";
    let text = run(&machine, words).unwrap_err().to_string();
    assert!(
        text.ends_with("set it with `evb sriov bind eth1 1 --mac MAC`"),
        "{text}"
    );
    run(&machine, "bind eth1 1 --mac 52:54:00:00:00:01").unwrap();
    let expected = "\
-chardev socket,id=standby,path=/run/evb/a,,b.sock,reconnect-ms=1000
-netdev vhost-user,id=standby,chardev=standby
-device virtio-net-pci,id=standby,netdev=standby,mac=52:54:00:00:00:01,failover=on
-device pcie-root-port,id=primary-port,slot=257
-device vfio-pci,id=primary,host=0000:01:10.1,bus=primary-port,failover_pair_id=standby
";
    assert_eq!(run(&machine, words).unwrap(), expected);
    let text = run(&machine, &format!("{words} --vmm cloud-hypervisor")).unwrap_err();
    assert!(matches!(text, SriovCommandError::NoFailover));
}

#[test]
fn an_answer_that_nobody_reads_is_no_error() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let machine = Machine::with_functions(2);
    for json in [false, true] {
        Sriov::List { json }.execute(&machine, &mut Closed).unwrap();
    }
}
