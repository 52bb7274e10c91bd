"""The command `theatre`, also `python -m theatre_gevent`.

main        arguments in, exit code out
arguments   subcommands, options, their environment variables, and --help
target      `module:function` of a user
asking      what an admin server says, over HTTP
run         hosts in processes of their own, started again when they end
child       such a process
playground  three hosts to play with
"""
