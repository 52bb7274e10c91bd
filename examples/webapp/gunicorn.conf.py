"""Settings of gunicorn: a host in every worker. README.md beside this file explains the times."""

from theatre_gevent import monkey

# In the master already, for preload_app: what bottle makes when it is imported is one for each greenlet then.
monkey.patch_all()

from theatre_gevent.contrib.gunicorn import GunicornHooks

theatre = GunicornHooks(
    "examples.webapp.app:register",
    name="shop",
    lease_duration=6,  # seconds until the carts of a worker that was killed come alive in another one
    poll_interval=1,
    safety_margin=2,
    admin_addr="127.0.0.1:0",  # a dashboard for each worker, at the address in the log; any of them shows all
)

on_starting = theatre.on_starting
on_reload = theatre.on_reload
on_exit = theatre.on_exit
post_worker_init = theatre.post_worker_init
worker_exit = theatre.worker_exit

graceful_timeout = 30
