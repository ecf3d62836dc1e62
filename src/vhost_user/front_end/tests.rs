//! The order of messages, against a back end that writes down what it hears.

use std::io::Read;
use std::thread::JoinHandle;

use super::*;

const ALL: u64 = PROTOCOL_FEATURES | 1 << 32 | 1 << 15;

/// Answers with zeros, or with everything that it can offer, and returns the requests and their flags.
fn recorder(mut stream: UnixStream, offered: u64, protocol: u64) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        let mut header = [0; 12];
        while stream.read_exact(&mut header).is_ok() {
            let word = |i: usize| u32::from_ne_bytes(header[i..i + 4].try_into().unwrap());
            let (code, flags, size) = (word(0), word(4), word(8));
            let mut bytes = vec![0; size as usize];
            stream.read_exact(&mut bytes).unwrap();
            let request = FrontendReq::try_from(code).unwrap();
            let index = matches!(code, 8..=14 | 18).then(|| bytes[0].to_string());
            let ack = if flags & NEED_REPLY != 0 { "!" } else { "" };
            heard.push(format!("{request:?}{}{ack}", index.unwrap_or_default()));
            let answer = match request {
                FrontendReq::GET_FEATURES => body(&[offered]),
                FrontendReq::GET_PROTOCOL_FEATURES => body(&[protocol]),
                FrontendReq::GET_QUEUE_NUM | FrontendReq::GET_MAX_MEM_SLOTS => body(&[32]),
                FrontendReq::GET_VRING_BASE
                | FrontendReq::SET_LOG_BASE
                | FrontendReq::GET_CONFIG => bytes,
                _ if flags & NEED_REPLY != 0 => body(&[0]),
                _ => continue,
            };
            let reply = message(code, VERSION | REPLY, &answer);
            std::io::Write::write_all(&mut stream, &reply).unwrap();
        }
        heard
    })
}

fn spoken(options: Options, offered: u64, protocol: u64, rings: usize) -> Vec<String> {
    let memory = DriverMemory::with_mib(1).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let recorder = recorder(theirs, offered, protocol);
    let mut front_end = FrontEnd::from_stream(ours, options).unwrap();
    let (kick, call) = (
        EventFd::new(EFD_NONBLOCK).unwrap(),
        EventFd::new(EFD_NONBLOCK).unwrap(),
    );
    let layout = RingLayout {
        size: 8,
        desc: 0,
        avail: 4096,
        used: 8192,
    };
    let ring = RingSetup {
        layout,
        base: 0,
        kick: &kick,
        call: Some(&call),
        log: false,
    };
    front_end.negotiate().unwrap();
    front_end.start(&memory, &vec![ring; rings]).unwrap();
    drop(front_end);
    recorder.join().unwrap()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn qemu_order() {
    let options = Options {
        queue_pairs: 2,
        mtu: Some(1500),
        ..Options::default()
    };
    let expected = "
        GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS
        SET_OWNER GET_FEATURES SET_VRING_CALL0 SET_VRING_ERR0 SET_VRING_CALL1 SET_VRING_ERR1
        GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES
        GET_FEATURES SET_VRING_CALL2 SET_VRING_ERR2 SET_VRING_CALL3 SET_VRING_ERR3
        SET_VRING_ENABLE0 SET_VRING_ENABLE1 SET_VRING_ENABLE2 SET_VRING_ENABLE3
        SET_VRING_ENABLE0 SET_VRING_ENABLE1 SET_FEATURES NET_SET_MTU! ADD_MEM_REG!
        SET_VRING_NUM0 SET_VRING_BASE0 SET_VRING_ADDR0 SET_VRING_KICK0
        SET_VRING_NUM1 SET_VRING_BASE1 SET_VRING_ADDR1 SET_VRING_KICK1
        SET_VRING_CALL0 SET_VRING_CALL1
        SET_VRING_ENABLE2 SET_VRING_ENABLE3 SET_FEATURES
        SET_VRING_NUM2 SET_VRING_BASE2 SET_VRING_ADDR2 SET_VRING_KICK2
        SET_VRING_NUM3 SET_VRING_BASE3 SET_VRING_ADDR3 SET_VRING_KICK3
        SET_VRING_CALL2 SET_VRING_CALL3";
    assert_eq!(spoken(options, ALL, u64::MAX, 4), words(expected));
}

#[test]
fn qemu_order_without_protocol_features() {
    let options = Options {
        mtu: Some(1500),
        ..Options::default()
    };
    let expected = "
        GET_FEATURES SET_OWNER GET_FEATURES
        SET_VRING_CALL0 SET_VRING_ERR0 SET_VRING_CALL1 SET_VRING_ERR1
        SET_FEATURES SET_MEM_TABLE
        SET_VRING_NUM0 SET_VRING_BASE0 SET_VRING_ADDR0 SET_VRING_KICK0
        SET_VRING_NUM1 SET_VRING_BASE1 SET_VRING_ADDR1 SET_VRING_KICK1
        SET_VRING_CALL0 SET_VRING_CALL1";
    assert_eq!(
        spoken(options, ALL & !PROTOCOL_FEATURES, 0, 2),
        words(expected)
    );
}

#[test]
fn cloud_hypervisor_order() {
    let options = Options {
        order: Order::CloudHypervisor,
        ..Options::default()
    };
    let expected = "
        SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM
        SET_FEATURES! SET_MEM_TABLE!
        SET_VRING_NUM0! SET_VRING_ADDR0! SET_VRING_BASE0! SET_VRING_CALL0! SET_VRING_KICK0!
        SET_VRING_NUM1! SET_VRING_ADDR1! SET_VRING_BASE1! SET_VRING_CALL1! SET_VRING_KICK1!
        SET_VRING_ENABLE0! SET_VRING_ENABLE1!";
    assert_eq!(spoken(options, ALL, u64::MAX, 2), words(expected));
}

#[test]
fn a_resumed_connection_sets_protocol_features_unasked() {
    let options = Options {
        order: Order::CloudHypervisor,
        resumed: true,
        ..Options::default()
    };
    let heard = spoken(options, ALL, u64::MAX, 0);
    assert_eq!(
        heard[..3],
        ["SET_OWNER", "GET_FEATURES", "SET_PROTOCOL_FEATURES"]
    );
}

#[test]
fn answers_are_checked() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let recorder = recorder(theirs, ALL, u64::MAX);
    let mut front_end = FrontEnd::from_stream(ours, Options::default()).unwrap();
    front_end.negotiate().unwrap();
    assert_eq!((front_end.offered(), front_end.features()), (ALL, ALL));
    assert_eq!(
        (front_end.queue_num(), front_end.mem_slots()),
        (Some(32), Some(32))
    );
    assert_eq!(front_end.stop_ring(1).unwrap(), 0);
    assert_eq!(front_end.get_config(0, 8).unwrap(), [0; 8]);
    front_end.set_log_base(0, 4096, 0).unwrap();
    drop(front_end);
    recorder.join().unwrap();
}

#[test]
fn a_silent_or_closed_peer_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = Options {
        timeout: Duration::from_millis(1),
        ..Options::default()
    };
    let mut front_end = FrontEnd::from_stream(ours, options).unwrap();
    assert!(matches!(
        front_end.get_features(),
        Err(FrontEndError::Silent(_))
    ));
    drop(theirs);
    assert!(matches!(
        front_end.get_features(),
        Err(FrontEndError::Closed(_))
    ));
}

#[test]
fn a_refusal_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut front_end = FrontEnd::from_stream(ours, Options::default()).unwrap();
    front_end.ack_everything = true;
    let refusal = message(FrontendReq::SET_OWNER.into(), VERSION | REPLY, &body(&[22]));
    std::io::Write::write_all(&mut &theirs, &refusal).unwrap();
    assert!(matches!(
        front_end.set_owner(),
        Err(FrontEndError::Refused { value: 22, .. })
    ));
}
