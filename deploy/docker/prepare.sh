#!/bin/sh
# Once, before the first start: makes the secrets that the compose file mounts, and says what is still missing. Run it again at will.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets/tls

fresh() { # a random word, where there is none yet
	[ -s "$1" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "$1"
}

fresh secrets/postgres_password
fresh secrets/grafana_password
printf 'postgres:5432:sumika:sumika:%s\n' "$(tr -d '\n' < secrets/postgres_password)" > secrets/pgpass
[ -e secrets/metrics_key ] || : > secrets/metrics_key

# Each service reads its own secrets by its own user; libpq wants its file to be nobody else's.
if [ "$(id -u)" = 0 ]; then
	chown 10001:10001 secrets/pgpass
	chown 999:999 secrets/postgres_password
	chown 472:0 secrets/grafana_password
	chown 65534:65534 secrets/metrics_key
	chown -R 10002:10002 secrets/tls
else
	echo "not root: give secrets/pgpass to user 10001, postgres_password to 999, grafana_password to 472, metrics_key to 65534, tls to 10002" >&2
fi

for file in server.crt server.key; do
	[ -s "secrets/tls/$file" ] || echo "missing: deploy/docker/secrets/tls/$file (your company's certificate with its chain, and its key)"
done
[ -s secrets/metrics_key ] || echo "for monitoring: docker compose run --rm gateway keys create prometheus --role admin --endpoint metrics --json, its secret into deploy/docker/secrets/metrics_key"
echo "next: docker compose build && docker compose up -d"
