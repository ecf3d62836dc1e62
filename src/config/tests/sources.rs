//! Where a configuration comes from: the command line or a file.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::valid;
use crate::config::{Backend, Config};

#[test]
fn ports_of_the_command_line_are_a_file() {
    let sockets = [
        PathBuf::from("/run/evb/vm1.sock"),
        PathBuf::from("/run/evb/vm2.sock"),
    ];
    let file = valid(
        "[[relay]]\nname = \"default\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/evb/vm1.sock\"\n\
         [[port]]\nname = \"vm2\"\nlisten = \"/run/evb/vm2.sock\"\n",
    );
    assert_eq!(Config::from_ports(&sockets).unwrap(), file);
    let here = std::path::absolute("vm1.sock").unwrap();
    let relative = Config::from_ports(&[PathBuf::from("vm1.sock")]).unwrap();
    assert_eq!(relative.ports["vm1"].backend, Backend::Listen(here));
}

#[test]
fn ports_of_the_command_line_can_be_wrong() {
    let long = format!("/run/{}.sock", "a".repeat(120));
    let table = [
        (
            vec!["/run/a/vm1.sock", "/run/a/vm1.sock"],
            "error: --port /run/a/vm1.sock is given twice\n |\n \
             = help: ports are named after their sockets: give each its own",
        ),
        (
            vec!["/run/a/vm1.sock", "/run/b/vm1.sock"],
            "error: --port /run/b/vm1.sock: there is a port `vm1` already\n |\n \
             = help: ports are named after their sockets: give each its own",
        ),
        (
            vec!["/run/a/vm 1.sock"],
            "error: --port /run/a/vm 1.sock: `vm 1` cannot be the name of a port\n |\n \
             = help: the name of the socket is made of letters, digits and any of `_ - . : @`",
        ),
        (
            vec![&long],
            &format!(
                "error: --port {long}: the path of a socket is too long\n |\n \
                 = help: the kernel takes at most 107 bytes: use a directory nearer to the root"
            ),
        ),
    ];
    for (sockets, expected) in table {
        let sockets: Vec<PathBuf> = sockets.into_iter().map(PathBuf::from).collect();
        assert_eq!(
            Config::from_ports(&sockets).unwrap_err().to_string(),
            expected
        );
    }
}

#[test]
fn files_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evb.toml");
    std::fs::write(&path, "[[relay]]\nname = \"blue\"\n").unwrap();
    assert!(Config::load(&path).unwrap().relays.contains_key("blue"));
    std::fs::write(&path, b"# \xff\n").unwrap();
    let shown = Config::load(&path).unwrap_err().to_string();
    assert_eq!(
        shown,
        format!(
            "error: {} is not text: byte 2 is not UTF-8\n |\n = help: write it in UTF-8",
            path.display()
        )
    );
    let shown = Config::load(Path::new("/nonexistent/evb.toml"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        shown,
        "error: cannot read /nonexistent/evb.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.toml");
    let file = std::fs::File::create(&long).unwrap();
    file.set_len(1 << 30).unwrap();
    let shown = |path: &Path| Config::load(path).unwrap_err().to_string();
    let refused = |path: &Path, kind: &str| {
        let expected = format!(
            "error: {} is {kind}, not a file\n |\n = help: give the path of a configuration file",
            path.display()
        );
        assert_eq!(shown(path), expected);
    };
    refused(dir.path(), "a directory");
    refused(Path::new("/dev/zero"), "a device");
    // Nobody writes to it, and nobody has closed it.
    let (reader, _writer) = std::io::pipe().unwrap();
    refused(
        Path::new(&format!("/proc/self/fd/{}", reader.as_raw_fd())),
        "a pipe",
    );
    assert_eq!(
        shown(&long),
        format!(
            "error: {} is longer than 8 MiB\n |\n \
             = help: a configuration is shorter: give the path of one",
            long.display()
        )
    );
}
