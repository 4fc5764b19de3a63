#!/bin/sh
# Run once, by PostgreSQL's image, on an empty data folder: the login roles of jobs and reader, and the database.
# The same as lib/stack/postgres.py makes for the local stack. Passwords come from the files of deploy/make_secrets.py.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --set database="$GM_DATABASE" --username postgres --dbname postgres <<'SQL'
\set jobs_password `cat "/run/secrets/${GM_DATABASE}_password"`
\set reader_password `cat /run/secrets/reader_password`
create role globalmart login password :'jobs_password';
create role globalmart_serving login password :'reader_password';
create database :"database";
SQL
