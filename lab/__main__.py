"""python3 -m lab smoke|networks|e2e [-k WORD]... | list | demo | network up|status|shell|down NETWORK"""
import argparse
import os
import select
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(*_):
    """A kill cleans up as Ctrl-C does, and a second one does not keep it from that."""
    for signal_number in SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    from .networks import command, netns
    parser = argparse.ArgumentParser(prog='python3 -m lab', description='Real guests in front of a real evb.')
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    for name, text in (('smoke', 'the checks of `make test` with guests'),
                       ('networks', 'those of the reference networks, without guests; they need root'),
                       ('e2e', 'all checks')):
        what.add_parser(name, help=text).add_argument(
            '-k', metavar='WORD', action='append', default=[],
            help='only the checks whose name contains WORD (may be given several times)')
    what.add_parser('list', help='the checks')
    what.add_parser('demo', help='what `make demo` shows')
    functions = what.add_parser('functions', help='a network on functions of NICs, which checks do in a guest')
    functions.add_argument('network', metavar='NETWORK', choices=('B_M3', 'failover'), help='B_M3 or failover')
    functions.add_argument('wire', metavar='WIRE')
    functions.add_argument('pfs', metavar='PF', nargs='+')
    command.add_words(what.add_parser('network', help='a reference network to look at and log in to'))
    options = parser.parse_args()
    for signal_number in SIGNALS:
        signal.signal(signal_number, interrupt)
    if options.what == 'demo':
        from . import demo
        return demo.main()
    if options.what == 'network':
        return command.main(options)
    if options.what == 'functions':
        from .networks import functions
        return functions.main(options.network, options.wire, options.pfs)
    from . import runner
    if options.what == 'list':
        return runner.show()
    if options.what == 'networks' and (why := netns.missing()):
        print(f'SKIPPED networks: {why}')
        return 0
    return runner.run(options.k, options.what)


def whole():
    """main(), and what it has printed is out; the exit status."""
    try:
        return main()
    except KeyboardInterrupt:
        print('\ninterrupted; nothing is left running')
        return 130
    finally:
        sys.stdout.flush()


def unread():
    """Whether standard output is a pipe that nobody reads any more, as behind `| head`."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))


try:
    status = whole()
except BrokenPipeError:
    if not unread():
        raise
    # As a shell would say of SIGPIPE. What is still to be written when Python ends goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = 141
sys.exit(status)
