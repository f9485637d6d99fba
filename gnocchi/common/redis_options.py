"""Options of Redis, which are there whether its library is installed or not."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("redis_url", default="redis://localhost:6379/", secret=True,
               help="URL, redis://[user:password@]host[:port]?key=value&..., or a socket's path in place of the host. "
                    "Keys: db, socket_timeout, ssl, ssl_ca_certs, sentinel and others (see the documentation)."),
]
