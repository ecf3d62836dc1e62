"""python3 -m lab smoke|e2e [-k WORD]... | list | demo"""
import argparse
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(*_):
    """A kill cleans up as Ctrl-C does, and a second one does not keep it from that."""
    for signal_number in SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(prog='python3 -m lab', description='Real guests in front of a real evb.')
    parser.add_argument('what', choices=['smoke', 'networks', 'e2e', 'list', 'demo'],
                        help='smoke, networks: the checks of `make test`; e2e: all of them')
    parser.add_argument('-k', metavar='WORD', action='append', default=[],
                        help='only the checks whose name contains WORD (may be given several times)')
    options = parser.parse_args()
    for signal_number in SIGNALS:
        signal.signal(signal_number, interrupt)
    if options.what == 'demo':
        from . import demo
        return demo.main()
    from . import runner
    if options.what == 'list':
        return runner.show()
    return runner.run(options.k, options.what)


try:
    sys.exit(main())
except KeyboardInterrupt:
    print('\ninterrupted; nothing is left running')
    sys.exit(130)
