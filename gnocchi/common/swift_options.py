"""Options of Swift, which are there whether its library is installed or not."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("swift_auth_version", default="1",
               help="Version of authentication: 1 (Swift's own tempauth and the like), 2 or 3 (Keystone)."),
    cfg.BoolOpt("swift_auth_insecure", default=False,
                help="Do not check the certificates of servers."),
    cfg.StrOpt("swift_url",
               help="URL of the account, in place of what authentication says."),
    cfg.URIOpt("swift_authurl", default="http://localhost:8080/auth/v1.0", schemes=["http", "https"],
               help="URL of the authentication service."),
    cfg.StrOpt("swift_preauthtoken", secret=True,
               help="Token, in place of authentication; needs swift_url."),
    cfg.StrOpt("swift_cacert",
               help="Path of the certificates of authorities to trust."),
    cfg.StrOpt("swift_region",
               help="Region, of several in the catalogue."),
    cfg.StrOpt("swift_user", default="admin:admin",
               help="User; with version 1 account:user."),
    cfg.StrOpt("swift_user_domain_name", default="Default",
               help="Domain of the user (version 3)."),
    cfg.StrOpt("swift_key", default="admin", secret=True,
               help="Password, or key."),
    cfg.StrOpt("swift_project_name", deprecated_name="swift_tenant_name",
               help="Project (versions 2 and 3)."),
    cfg.StrOpt("swift_project_domain_name", default="Default",
               help="Domain of the project (version 3)."),
    cfg.StrOpt("swift_container_prefix", default="gnocchi",
               help="What the name of the container of aggregates begins with."),
    cfg.BoolOpt("swift_container_prefix_all", default=False,
                help="Let the name of the container of incoming measures begin with it, too. Deployments that share an "
                     "account need it. Not to be changed while measures wait."),
    cfg.StrOpt("swift_storage_policy",
               help="Storage policy of containers that gnocchi-upgrade makes."),
    cfg.StrOpt("swift_endpoint_type", default="publicURL", choices=["publicURL", "internalURL", "adminURL"],
               help="Which endpoint of the catalogue (versions 2 and 3)."),
    cfg.StrOpt("swift_service_type", default="object-store",
               help="Type of the service in the catalogue (versions 2 and 3)."),
    cfg.IntOpt("swift_timeout", default=300, min=0,
               help="Seconds after which a server that does not answer is away; more than 30 count as 30, and so does "
                    "0. Connections are to be made within 5 seconds."),
]
