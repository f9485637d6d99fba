# DevStack plugin.  In local.conf:   enable_plugin gnocchi <URL of this repository>

function is_gnocchi_enabled {
    [[ ,${ENABLED_SERVICES} =~ ,"gnocchi-" ]]
}

function gnocchi_service_url {
    echo "http://$GNOCCHI_SERVICE_HOST:$GNOCCHI_SERVICE_PORT"
}

function install_gnocchi {
    local extra=mysql
    if is_service_enabled postgresql; then extra=postgresql; fi
    setup_develop $GNOCCHI_DIR $extra,keystone
    pip_install gnocchiclient
}

function configure_gnocchi {
    sudo install -d -o $STACK_USER -m 755 $GNOCCHI_CONF_DIR $GNOCCHI_DATA_DIR
    rm -f $GNOCCHI_CONF
    iniset $GNOCCHI_CONF DEFAULT debug "$ENABLE_DEBUG_LOG_LEVEL"
    iniset $GNOCCHI_CONF indexer url "$(database_connection_url gnocchi)"
    iniset $GNOCCHI_CONF storage driver file
    iniset $GNOCCHI_CONF storage file_basepath $GNOCCHI_DATA_DIR
    iniset $GNOCCHI_CONF api auth_mode $GNOCCHI_AUTH_MODE
    if [[ $GNOCCHI_AUTH_MODE == keystone ]]; then
        configure_keystone_authtoken_middleware $GNOCCHI_CONF gnocchi
    fi
    iniset $GNOCCHI_CONF api port $GNOCCHI_SERVICE_PORT
    iniset $GNOCCHI_CONF metricd metric_processing_delay $GNOCCHI_METRICD_PROCESSING_DELAY
}

function create_gnocchi_accounts {
    if is_service_enabled keystone; then
        create_service_user gnocchi
        get_or_create_service gnocchi metric "OpenStack Metric Service"
        get_or_create_endpoint metric "$REGION_NAME" "$(gnocchi_service_url)" "$(gnocchi_service_url)" \
            "$(gnocchi_service_url)"
    fi
}

function init_gnocchi {
    recreate_database gnocchi
    rm -rf ${GNOCCHI_DATA_DIR:?}/*
    $GNOCCHI_BIN_DIR/gnocchi-upgrade --config-file $GNOCCHI_CONF
}

function start_gnocchi {
    run_process gnocchi-api "$GNOCCHI_BIN_DIR/gnocchi-api --config-file $GNOCCHI_CONF"
    run_process gnocchi-metricd "$GNOCCHI_BIN_DIR/gnocchi-metricd --config-file $GNOCCHI_CONF"
    if ! wait_for_service 60 "$(gnocchi_service_url)/healthcheck"; then
        die $LINENO "gnocchi-api did not start"
    fi
}

function stop_gnocchi {
    stop_process gnocchi-api
    stop_process gnocchi-metricd
}

if is_gnocchi_enabled; then
    GNOCCHI_BIN_DIR=$(get_python_exec_prefix)
    if [[ "$1" == "stack" && "$2" == "install" ]]; then
        install_gnocchi
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        configure_gnocchi
        create_gnocchi_accounts
    elif [[ "$1" == "stack" && "$2" == "extra" ]]; then
        init_gnocchi
        start_gnocchi
    fi
    if [[ "$1" == "unstack" ]]; then
        stop_gnocchi
    fi
    if [[ "$1" == "clean" ]]; then
        rm -rf ${GNOCCHI_CONF_DIR:?} ${GNOCCHI_DATA_DIR:?}
    fi
fi
