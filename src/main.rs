//! The `evb` binary.
use evb::config::*;
use evb::relay::*;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == evb::privileged::SUBCOMMAND) {
        evb::privileged::serve().unwrap();
        return;
    }
    env_logger::init();
    let mut config = Config::default();
    config.relays.insert("default".into(), Default::default());
    for a in &args {
        let name = std::path::Path::new(a).file_stem().unwrap().to_string_lossy().into_owned();
        config.ports.insert(name, Port { relay: "default".into(), backend: Backend::Listen(a.into()), queues: 8, settings: PortConfig::local(Mode::Bridge, VlanConfig::Flat, vec![]) });
    }
    let dirs: Vec<_> = args.iter().map(|a| std::path::Path::new(a).parent().unwrap().to_owned()).collect();
    let p = evb::privileged::Privileged::spawn(dirs).unwrap();
    evb::daemon::run(config, None, p).unwrap();
}
