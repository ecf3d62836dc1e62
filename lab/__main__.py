"""python3 -m lab smoke|e2e [-k WORD]... | list | demo"""
import argparse
import signal
import sys


def main():
    parser = argparse.ArgumentParser(prog='python3 -m lab', description='Real guests in front of a real evb.')
    parser.add_argument('what', choices=['smoke', 'e2e', 'list', 'demo'],
                        help='smoke: the checks of `make test`; e2e: all of them')
    parser.add_argument('-k', metavar='WORD', action='append', default=[],
                        help='only the checks whose name contains WORD (may be given several times)')
    options = parser.parse_args()
    # So that a kill cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.what == 'demo':
        from . import demo
        return demo.main()
    from . import runner
    if options.what == 'list':
        return runner.show()
    return runner.run(options.k, options.what == 'smoke')


try:
    sys.exit(main())
except KeyboardInterrupt:
    print('\ninterrupted; nothing is left running')
    sys.exit(130)
