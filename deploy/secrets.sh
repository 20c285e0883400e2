#!/bin/sh
# Makes the secrets that docker-compose.yml hands to its services as files, in deploy/secrets; keeps those that are there.
# `secrets.sh --renew` makes new ones: restart the services afterwards (all of them: Redis reads its users at its start).
#
# Containers run as users of their own, who must be able to read their files; what keeps other users of this machine out
# is the folder.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
folder=$here/secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

mkdir -p "$folder"
chmod 700 "$folder"
if [ "${1-}" = --renew ]; then rm -f "$folder/redis_password" "$folder/redis_users.acl" "$folder/grafana_password"; fi

[ -s "$folder/redis_password" ] || random >"$folder/redis_password"
sed -e '/^#/d' -e "s/PASSWORD_SHA256/$(digest "$(cat "$folder/redis_password")")/" "$here/redis/users.acl" >"$folder/redis_users.acl"
[ -s "$folder/grafana_password" ] || random >"$folder/grafana_password"
echo "secrets are in $folder"
