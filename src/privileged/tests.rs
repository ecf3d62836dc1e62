//! The helper as a real process: this test program, started again to run one test.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Error, Privileged, Refusal};

mod links;

const NO_DEVICES: [&str; 0] = [];

/// Set where this test program is to be the helper.
const HELPER: &str = "EVB_TEST_HELPER";
/// Set to a directory where this test program is to be a daemon that gets killed.
const DAEMON: &str = "EVB_TEST_DAEMON";

/// This test program, to run one test and with it to be another process.
fn again(test: &str, role: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            &format!("privileged::tests::{test}"),
            "--nocapture",
        ])
        .env(role, value);
    command
}

fn spawn(directories: &[&Path]) -> Result<Privileged, Error> {
    let command = again("serve_if_told", HELPER, Path::new("yes"));
    Privileged::spawn_as(command, directories, NO_DEVICES)
}

#[test]
fn serve_if_told() {
    if std::env::var_os(HELPER).is_some() {
        super::serve().unwrap();
    }
}

#[test]
fn be_killed_if_told() {
    if let Some(directory) = std::env::var_os(DAEMON) {
        let directory = PathBuf::from(directory);
        let privileged = spawn(&[&directory]).unwrap();
        let _listener = privileged.bind(&directory.join("vm1.sock")).unwrap();
        fs::write(directory.join("pid"), privileged.child.id().to_string()).unwrap();
        thread::park_timeout(Duration::from_mins(1));
    }
}

fn setup() -> (TempDir, PathBuf, Privileged) {
    let directory = tempfile::tempdir().unwrap();
    let privileged = spawn(&[directory.path()]).unwrap();
    let path = directory.path().join("vm1.sock");
    (directory, path, privileged)
}

/// What the helper answered, where it refused.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal {
    match result.unwrap_err() {
        Error::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

fn errno(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::Os { errno, .. } => *errno,
        other => panic!("{other}"),
    }
}

fn talk(mut near: UnixStream, listener: &UnixListener) {
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(b"hello").unwrap();
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Listens no more. The processes that other tests start have the socket as well, until they run their program.
fn abandon(listener: UnixListener, path: &Path) {
    drop(listener);
    eventually("nobody listens any more", || {
        UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
}

#[test]
fn a_socket_is_bound_reached_and_removed() {
    let (_directory, path, privileged) = setup();
    let listener = privileged.bind(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    talk(privileged.connect(&path).unwrap(), &listener);
    talk(UnixStream::connect(&path).unwrap(), &listener);
    let address = listener.local_addr().unwrap();
    assert_eq!(
        address.as_pathname(),
        Some(fs::canonicalize(&path).unwrap().as_path())
    );
    privileged.unlink(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(refusal(privileged.unlink(&path)), Refusal::NotMade);
}

#[test]
fn a_file_is_kept_for_this_user_alone_and_stays() {
    let (directory, path, privileged) = setup();
    let file = privileged.keep(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    file.write_all_at(b"kept", 0).unwrap();
    // The next daemon finds it.
    drop((file, privileged));
    let privileged = spawn(&[directory.path()]).unwrap();
    let file = privileged.keep(&path).unwrap();
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"kept");
    // Written to since.
    file.write_all_at(b"more", 4).unwrap();
    privileged.unlink(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(refusal(privileged.unlink(&path)), Refusal::NotMade);
}

#[test]
fn a_file_that_others_have_a_hand_in_is_not_kept() {
    let (directory, path, privileged) = setup();
    let other = directory.path().join("other");
    fs::write(&other, "precious").unwrap();
    let mode = |mode| fs::set_permissions(&other, Permissions::from_mode(mode)).unwrap();
    let cases: [(&str, &dyn Fn()); 5] = [
        ("a file that others may use", &|| {
            mode(0o640);
            fs::rename(&other, &path).unwrap();
        }),
        ("a file that has another name, too", &|| {
            mode(0o600);
            fs::hard_link(&other, &path).unwrap();
        }),
        ("a pipe", &|| {
            let made = Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
        }),
        ("", &|| symlink(&other, &path).unwrap()),
        ("", &|| drop(UnixListener::bind(&path).unwrap())),
    ];
    for (found, make) in cases {
        fs::write(&other, "precious").unwrap();
        make();
        match refusal(privileged.keep(&path)) {
            Refusal::NotOurs { found: told } => assert_eq!(told, found),
            // A link or a socket cannot be opened at all.
            Refusal::Os { errno, .. } => {
                assert!(found.is_empty() && [libc::ELOOP, libc::ENXIO].contains(&errno));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(refusal(privileged.unlink(&path)), Refusal::NotMade);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let (_directory, path, privileged) = setup();
    let theirs = UnixListener::bind(&path).unwrap();
    assert_eq!(refusal(privileged.bind(&path)), Refusal::InUse);
    assert_eq!(refusal(privileged.unlink(&path)), Refusal::NotMade);
    abandon(theirs, &path);
    let ours = privileged.bind(&path).unwrap();
    // Our own as well.
    assert_eq!(refusal(privileged.bind(&path)), Refusal::InUse);
    abandon(ours, &path);
    let listener = privileged.bind(&path).unwrap();
    talk(UnixStream::connect(&path).unwrap(), &listener);
}

#[test]
fn a_listener_whose_backlog_is_full_is_in_use() {
    let (_directory, path, privileged) = setup();
    let _theirs = UnixListener::bind(&path).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        match privileged.connect(&path) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.os_error(), Some(libc::EAGAIN));
    assert_eq!(refusal(privileged.bind(&path)), Refusal::InUse);
}

#[test]
fn a_socket_of_another_type_is_in_use_while_it_is_open() {
    let (_directory, path, privileged) = setup();
    let theirs = UnixDatagram::bind(&path).unwrap();
    assert_eq!(refusal(privileged.bind(&path)), Refusal::InUse);
    drop(theirs);
    // As in `abandon`.
    let ours = UnixDatagram::unbound().unwrap();
    eventually("nobody has it open any more", || {
        ours.connect(&path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    privileged.bind(&path).unwrap();
}

#[test]
fn no_other_file_is_touched() {
    let (directory, path, privileged) = setup();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target.sock");
    let listener = UnixListener::bind(&target).unwrap();
    let cases: [(&str, &dyn Fn()); 4] = [
        ("a regular file", &|| fs::write(&path, "precious").unwrap()),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a symbolic link", &|| symlink(&target, &path).unwrap()),
        ("a symbolic link", &|| symlink("/nowhere", &path).unwrap()),
    ];
    for (found, make) in cases {
        make();
        let expected = Refusal::NotASocket {
            found: found.into(),
        };
        assert_eq!(refusal(privileged.bind(&path)), expected);
        assert_eq!(refusal(privileged.connect(&path)), expected);
        assert_eq!(refusal(privileged.unlink(&path)), Refusal::NotMade);
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir(&path))
            .unwrap();
    }
    // Nor is one that took the place of ours.
    drop(privileged.bind(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    privileged.unlink(&path).unwrap();
    drop(privileged);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    drop((directory, listener));
}

#[test]
fn other_directories_are_refused() {
    let (directory, path, privileged) = setup();
    let elsewhere = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(elsewhere.path().join("x.sock")).unwrap();
    let link = directory.path().join("link");
    symlink(elsewhere.path(), &link).unwrap();
    let nested = directory.path().join("nested");
    fs::create_dir(&nested).unwrap();
    let real = fs::canonicalize(elsewhere.path()).unwrap();
    let through = elsewhere.path().file_name().unwrap();
    for path in [
        elsewhere.path().join("x.sock"),
        link.join("x.sock"),
        directory.path().join("..").join(through).join("x.sock"),
    ] {
        let expected = Refusal::NotAllowed {
            directory: real.clone(),
        };
        assert_eq!(
            refusal(privileged.bind(&path)),
            expected,
            "{}",
            path.display()
        );
        assert_eq!(refusal(privileged.connect(&path)), expected);
        assert_eq!(refusal(privileged.unlink(&path)), expected);
    }
    assert!(matches!(
        refusal(privileged.bind(&nested.join("x.sock"))),
        Refusal::NotAllowed { .. }
    ));
    for path in ["x.sock", "", "/", "../x.sock"] {
        assert_eq!(
            refusal(privileged.bind(Path::new(path))),
            Refusal::NotAbsolute,
            "{path:?}"
        );
    }
    let missing = directory.path().join("missing/x.sock");
    assert_eq!(errno(&refusal(privileged.bind(&missing))), libc::ENOENT);
    // A way to an allowed directory that goes through a link is a way to it.
    let way = elsewhere.path().join("way");
    symlink(directory.path(), &way).unwrap();
    drop(privileged.bind(&way.join("vm1.sock")).unwrap());
    privileged.unlink(&path).unwrap();
}

#[test]
fn a_directory_may_appear_later_and_come_again() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("ports");
    let privileged = spawn(&[&directory]).unwrap();
    let path = directory.join("vm1.sock");
    for _ in 0..2 {
        assert_eq!(errno(&refusal(privileged.bind(&path))), libc::ENOENT);
        fs::create_dir(&directory).unwrap();
        drop(privileged.bind(&path).unwrap());
        privileged.unlink(&path).unwrap();
        fs::remove_dir(&directory).unwrap();
    }
    // As a link to elsewhere it is not the directory that was named.
    symlink("/tmp", &directory).unwrap();
    assert!(matches!(
        refusal(privileged.bind(&path)),
        Refusal::NotAllowed { .. }
    ));
    assert_eq!(refusal(spawn(&[Path::new("ports")])), Refusal::NotAbsolute);
}

#[test]
fn a_path_longer_than_an_address_works() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("d".repeat(120));
    fs::create_dir(&directory).unwrap();
    let privileged = spawn(&[&directory]).unwrap();
    let path = directory.join("vm1.sock");
    let listener = privileged.bind(&path).unwrap();
    talk(privileged.connect(&path).unwrap(), &listener);
    drop(privileged);
    assert!(!path.exists());
    let privileged = spawn(&[&directory]).unwrap();
    let path = directory.join("x".repeat(20_000));
    assert_eq!(errno(&refusal(privileged.bind(&path))), libc::ENAMETOOLONG);
}

#[test]
fn errors_name_the_path_and_the_remedy() {
    let (_directory, path, privileged) = setup();
    fs::write(&path, "").unwrap();
    let text = privileged.bind(&path).unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {}: there is a regular file, not a socket; remove it or choose another path",
        path.display()
    );
    assert_eq!(text, expected);
    fs::remove_file(&path).unwrap();
    let error = privileged.connect(&path).unwrap_err();
    assert_eq!(error.os_error(), Some(libc::ENOENT));
    abandon(privileged.bind(&path).unwrap(), &path);
    let error = privileged.connect(&path).unwrap_err();
    assert_eq!(error.os_error(), Some(libc::ECONNREFUSED));
    assert!(
        error
            .to_string()
            .ends_with("start the process that should listen there")
    );
}

#[test]
fn nothing_is_left_behind_at_the_end() {
    let (directory, path, privileged) = setup();
    let _listener = privileged.bind(&path).unwrap();
    let moved = directory.path().join("vm2.sock");
    let _other = privileged.bind(&moved).unwrap();
    // An operator may change owner and mode of a socket: it stays ours.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    drop(privileged);
    assert!(!path.exists() && !moved.exists());
}

#[test]
fn a_killed_daemon_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = again("be_killed_if_told", DAEMON, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = directory.path().join("pid");
    eventually("the daemon comes up", || {
        fs::read_to_string(&pid).is_ok_and(|pid| !pid.is_empty())
    });
    let path = directory.path().join("vm1.sock");
    assert!(path.exists());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    eventually("the socket goes", || !path.exists());
    let helper = Path::new("/proc").join(fs::read_to_string(pid).unwrap());
    eventually("the helper goes", || {
        // Where nobody reaps orphans it stays as a zombie, without a command line.
        fs::read(helper.join("cmdline")).is_ok_and(|line| line.is_empty()) || !helper.exists()
    });
}

#[test]
fn the_socket_of_a_successor_stays() {
    let (directory, path, first) = setup();
    abandon(first.bind(&path).unwrap(), &path);
    let second = spawn(&[directory.path()]).unwrap();
    let listener = second.bind(&path).unwrap();
    first.unlink(&path).unwrap();
    assert!(path.exists());
    drop(first);
    talk(second.connect(&path).unwrap(), &listener);
    drop(second);
    assert!(!path.exists());
}

#[test]
fn signals_that_stop_the_daemon_do_not_stop_the_helper() {
    let (_directory, path, privileged) = setup();
    for signal in ["-INT", "-TERM", "-HUP", "-QUIT"] {
        let pid = privileged.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
    privileged.bind(&path).unwrap();
}

#[test]
fn a_helper_that_died_is_an_error() {
    let (_directory, path, mut privileged) = setup();
    privileged.child.kill().unwrap();
    privileged.child.wait().unwrap();
    assert!(matches!(privileged.bind(&path), Err(Error::Gone(_))));
    let missing = Privileged::spawn_as(
        Command::new("/nonexistent/evb"),
        [Path::new("/tmp")],
        NO_DEVICES,
    );
    let Err(Error::Start(error)) = missing else {
        panic!("started");
    };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn threads_share_it() {
    let (directory, _, privileged) = setup();
    let privileged = Arc::new(privileged);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let privileged = Arc::clone(&privileged);
            let directory = directory.path().to_owned();
            thread::spawn(move || {
                for turn in 0..20 {
                    let path = directory.join(format!("{thread}-{turn}.sock"));
                    let listener = privileged.bind(&path).unwrap();
                    talk(privileged.connect(&path).unwrap(), &listener);
                    privileged.unlink(&path).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
