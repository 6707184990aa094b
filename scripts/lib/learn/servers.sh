# The servers of `scripts/bench learn`: how each is had, its version, and how it is started with a known idle limit. Sourced, not
# run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# name, its limit in ms, what the table calls it
SERVERS=(
    "gunicorn  2000 gunicorn, gthread"
    "uvicorn   2000 uvicorn"
    "hypercorn 2000 hypercorn"
    "nginx     2000 nginx"
    "lighttpd  2000 lighttpd"
    "apache    2000 Apache, event"
    "haproxy   2000 HAProxy"
    "node      2000 Node.js"
    "silent    2000 Node.js, no Keep-Alive"
    "go        2000 Go, net/http"
    "tomcat    2000 Tomcat"
    "jetty     2000 Jetty"
    "php       0    PHP-FPM, 50 requests"
)
QUICK_SERVERS=(gunicorn uvicorn nginx lighttpd node php)
APPS=$LIB/learn/apps
# Where each of them runs.
declare -gA SERVER_PID=() SERVER_PORT=()

server_names() { printf '%s\n' "${SERVERS[@]}" | awk '{print $1}'; }

server_limit() { printf '%s\n' "${SERVERS[@]}" | awk -v name="$1" '$1 == name {print $2}'; }

server_label() { printf '%s\n' "${SERVERS[@]}" | sed -n "s/^$1 *[0-9]* *//p"; }

# ---- how they are had ----

# Debian's packages of them, as far as this release has them; without root, those that are there are enough.
note_learn_server_needs() {
    is_debian && is_root || return 0
    local name
    for name in "${CHOSEN[@]}"; do
        case $name in
            gunicorn | uvicorn | hypercorn) note_learn_server python3-venv has_venv ;;
            lighttpd) note_learn_server lighttpd has_lighttpd ;;
            apache) note_learn_server apache2-bin has_apache ;;
            haproxy) note_learn_server haproxy has_haproxy ;;
            node | silent) note_learn_server nodejs has_node ;;
            go) note_learn_server golang-go has_go ;;
            tomcat) note_learn_server "$(newest_package tomcat11-common tomcat10-common tomcat9-common)" has_tomcat ;;
            jetty) note_learn_server "$(newest_package jetty12 jetty9)" has_jetty ;;
            php) note_learn_server php-fpm has_php ;;
        esac
    done
}

# note_learn_server PACKAGE PROBE
note_learn_server() {
    [[ -n $1 && -n $(apt-cache madison "$1" 2>/dev/null) ]] || return 0
    need "a server of the table" "$1" "$2"
}

# The first of these packages that the archive has.
newest_package() {
    local package
    for package; do
        if [[ -n $(apt-cache madison "$package" 2>/dev/null) ]]; then
            say "$package"
            return
        fi
    done
}

has_venv() { python3 -c 'import ensurepip, venv'; }
has_lighttpd() { have lighttpd; }
has_apache() { have apache2 && [[ -f $(apache_modules)/mod_mpm_event.so ]]; }
has_haproxy() { have haproxy; }
has_node() { have node; }
has_go() { have go; }
has_nginx() { true; }
has_silent() { has_node; }
has_tomcat() { have java && tomcat_home; }
has_jetty() { have java && jetty_home; }
has_php() { php_fpm; }
has_gunicorn() { [[ -x $PYTHON_SERVERS/bin/gunicorn ]]; }
has_uvicorn() { [[ -x $PYTHON_SERVERS/bin/uvicorn ]]; }
has_hypercorn() { [[ -x $PYTHON_SERVERS/bin/hypercorn ]]; }

apache_modules() { say /usr/lib/apache2/modules; }
tomcat_home() { compgen -G '/usr/share/tomcat[0-9]*/bin/catalina.sh' | sort -V | tail -n 1 | sed 's|/bin/[^/]*$||' | grep .; }
jetty_home() { compgen -G '/usr/share/jetty[0-9]*/start.jar' | sort -V | tail -n 1 | sed 's|/[^/]*$||' | grep .; }
php_fpm() { compgen -G '/usr/sbin/php-fpm[0-9]*' | sort -V | tail -n 1 | grep .; }

# Python's servers change too fast for the distribution's packages of them.
PYTHON_SERVERS=$CACHE/learn/python

provide_python_servers() {
    local wanted=' gunicorn uvicorn hypercorn ' name
    for name in "${CHOSEN[@]}"; do
        [[ $wanted == *" $name "* ]] || continue
        if has_gunicorn && has_uvicorn && has_hypercorn; then
            return
        fi
        step "installing gunicorn, uvicorn and hypercorn from PyPI, into a folder of the cache"
        mkdir -p "$CACHE/learn"
        quietly "$CACHE/log/learn-python" python_servers || true
        return
    done
}

python_servers() {
    python3 -m venv "$PYTHON_SERVERS" && "$PYTHON_SERVERS/bin/pip" install gunicorn 'uvicorn[standard]' hypercorn
}

# ---- versions ----

version_of() {
    case $1 in
        gunicorn | uvicorn | hypercorn)
            "$PYTHON_SERVERS/bin/python" -c "import importlib.metadata as m; print(m.version('$1'))"
            ;;
        nginx) nginx_version "$NGINX" ;;
        lighttpd) lighttpd -v | sed -n '1s|^lighttpd/\([^ ]*\).*|\1|p' ;;
        apache) apache2 -v | sed -n 's|^Server version: Apache/\([^ ]*\).*|\1|p' ;;
        haproxy) haproxy -v | sed -n '1s/^HAProxy version \([0-9.]*\).*/\1/p' ;;
        node | silent) node --version | tr -d v ;;
        go) go version | sed 's/.* go\([0-9.]*\) .*/\1/' ;;
        tomcat) "$(tomcat_home)/bin/version.sh" 2>/dev/null | sed -n 's/^Server number: *//p' ;;
        jetty) jetty_version ;;
        php) "$(php_fpm)" -v | sed -n '1s/^PHP \([0-9.]*\).*/\1/p' ;;
    esac
}

# In the name of a file.
jetty_version() {
    find -L "$(jetty_home)/lib" -maxdepth 1 -name 'jetty-server-[0-9]*.jar' |
        sed -n 's/.*jetty-server-\([0-9.]*[0-9]\).*/\1/p' | head -n 1
}

# ---- starting them ----

# start_server NAME: with its idle limit. Sets SERVER_PORT and SERVER_PID at NAME; false when it does not start. The ids of its
# requests are in TEMP/NAME/ids.
start_server() {
    local name=$1 folder=$TEMP/$1 port limit
    port=$(free_port) limit=$(server_limit "$name")
    mkdir -p "$folder"
    export IDS=$folder/ids
    : >"$IDS"
    # Some run as another user.
    chmod 666 "$IDS"
    "serve_$name" "$folder" "$port" "$limit" || return 1
    SERVER_PID[$name]=$PID SERVER_PORT[$name]=$port
    wait_for 20 is_listening_or_gone "$port" "$PID" && is_running "$PID"
}

is_listening_or_gone() { ! is_running "$2" || (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# run_server FOLDER COMMAND..: in the background; sets PID.
run_server() {
    local folder=$1
    shift
    (cd "$folder" && exec "$@") >"$folder/out" 2>&1 </dev/null &
    remember_server
}

# remember_server: the last one that was started. It is no job of this shell any more, which would report how it ends.
remember_server() {
    PID=$!
    disown "$PID"
    at_exit "stop_server $PID"
}

# Some have workers, which a parent that is killed would leave behind.
stop_server() { ! is_running "$1" || stop_tree "$1"; }

serve_gunicorn() {
    run_server "$1" env PYTHONDONTWRITEBYTECODE=1 "$PYTHON_SERVERS/bin/gunicorn" --chdir "$APPS" --bind "127.0.0.1:$2" \
        --no-control-socket --worker-class gthread --threads 4 --keep-alive $(($3 / 1000)) wsgi:app
}

serve_uvicorn() {
    run_server "$1" env PYTHONDONTWRITEBYTECODE=1 "$PYTHON_SERVERS/bin/uvicorn" --app-dir "$APPS" --host 127.0.0.1 --port "$2" \
        --timeout-keep-alive $(($3 / 1000)) --log-level warning asgi:app
}

serve_hypercorn() {
    run_server "$1" env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$APPS" "$PYTHON_SERVERS/bin/hypercorn" --bind "127.0.0.1:$2" \
        --keep-alive $(($3 / 1000)) asgi:app
}

serve_node() { run_server "$1" node "$APPS/server.js" "$2" "$3" announcing; }
serve_silent() { run_server "$1" node "$APPS/server.js" "$2" "$3" silent; }

serve_go() {
    quietly "$TEMP/go.log" env GOCACHE="$CACHE/learn/go" GO111MODULE=off go build -o "$1/server" "$APPS/server.go" || return 1
    run_server "$1" "$1/server" "$2" "$3ms"
}

serve_nginx() {
    write_server_configuration "$1" "$2" "$3" nginx.conf
    run_server "$1" "$NGINX" -p "$1" -e "$1/error.log" -c "$1/nginx.conf" -g 'daemon off;'
}

# lighttpd itself reads no body of a POST, and closes the connection then; so another server is behind it.
serve_lighttpd() {
    mkdir -p "$1/behind"
    BEHIND_PORT=$(free_port)
    IDS=/dev/null write_server_configuration "$1/behind" "$BEHIND_PORT" 60000 nginx.conf
    run_server "$1/behind" "$NGINX" -p "$1/behind" -e "$1/behind/error.log" -c "$1/behind/nginx.conf" -g 'daemon off;'
    write_server_configuration "$1" "$2" "$3" lighttpd.conf
    run_server "$1" lighttpd -D -f "$1/lighttpd.conf"
}

serve_apache() {
    write_server_configuration "$1" "$2" "$3" apache.conf
    run_server "$1" apache2 -DFOREGROUND -f "$1/apache.conf"
}

serve_haproxy() {
    write_server_configuration "$1" "$2" "$3" haproxy.cfg
    haproxy -db -f "$1/haproxy.cfg" >"$IDS" 2>"$1/out" </dev/null &
    remember_server
}

serve_tomcat() {
    mkdir -p "$1/conf" "$1/logs" "$1/temp" "$1/work"
    write_server_configuration "$1" "$2" "$3" server.xml
    mv "$1/server.xml" "$1/conf/"
    cp "$LIB/learn/conf/web.xml" "$1/conf/"
    run_server "$1" env CATALINA_HOME="$(tomcat_home)" CATALINA_BASE="$1" JAVA_OPTS="-Xmx128m" "$(tomcat_home)/bin/catalina.sh" run
}

serve_jetty() {
    mkdir -p "$1/webapps/root" "$1/resources" "$1/logs"
    say ok >"$1/webapps/root/index.html"
    run_server "$1" java -Xmx128m -jar "$(jetty_home)/start.jar" "jetty.home=$(jetty_home)" "jetty.base=$1" --module=http,deploy,customrequestlog \
        jetty.http.host=127.0.0.1 "jetty.http.port=$2" "jetty.http.idleTimeout=$3" \
        jetty.requestlog.filePath=ids jetty.requestlog.append=true "jetty.customrequestlog.formatString=%{X-Id}i"
}

serve_php() {
    cp "$APPS/index.php" "$1/"
    write_server_configuration "$1" "$2" "$3" php-fpm.conf
    run_server "$1" "$(php_fpm)" -F -y "$1/php-fpm.conf" -c /dev/null
}

# write_server_configuration FOLDER PORT LIMIT NAME: in seconds and in ms. A file to serve lies beside it.
write_server_configuration() {
    local user=''
    mkdir -p "$1/root"
    say ok >"$1/root/index.html"
    fill_in "$LIB/learn/conf/$4" FOLDER "$1" PORT "$2" SECONDS $(($3 / 1000)) MS "$3" APPS "$APPS" IDS "$IDS" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$1")" USER_GROUP "$(server_user "$4")" MODULES "$(apache_modules)" \
        BEHIND_PORT "${BEHIND_PORT:-}" >"$1/$4"
}

# Servers that root starts want to be told which user they shall be.
server_user() {
    is_root || return 0
    case $1 in
        apache.conf) printf 'User nobody\nGroup nogroup\n' ;;
        php-fpm.conf) printf 'user = nobody\ngroup = nogroup\n' ;;
    esac
}
