# The service and its artifact, without torch. VARIANT=cpu (the default) or cuda chooses the ONNX Runtime. EXTRAS=grpc (the
# default) adds what FCN_GRPC_PORT needs; EXTRAS= leaves it out.
#   docker build -t fcn-serve:cpu .
#   docker build -t fcn-serve:cuda --build-arg VARIANT=cuda .

FROM python:3.11-slim-bookworm AS build
ARG VARIANT=cpu
ARG EXTRAS=grpc
COPY deploy/locks/serve.txt deploy/locks/serve-cuda.txt deploy/locks/grpc.txt /locks/
# The environment gets no pip of its own: what runs in the final image can install nothing. Bytecode is compiled here,
# because the final image is read-only and would compile at every start.
RUN case "$VARIANT" in \
      cpu) lock=/locks/serve.txt ;; \
      cuda) lock=/locks/serve-cuda.txt ;; \
      *) echo "VARIANT must be cpu or cuda, not '$VARIANT'" >&2; exit 1 ;; \
    esac \
 && case "$EXTRAS" in \
      "") extras= ;; \
      grpc) extras=/locks/grpc.txt ;; \
      *) echo "EXTRAS must be grpc or nothing, not '$EXTRAS'" >&2; exit 1 ;; \
    esac \
 && python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
      --require-hashes --only-binary :all: --requirement "$lock" \
      ${extras:+--requirement "$extras"} \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} +
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev
WORKDIR /app
COPY service service
COPY models/artifacts/*.onnx models/artifacts/
RUN python -P service/pipeline/tasks/compiled.py && /opt/venv/bin/python -m compileall -q service

FROM python:3.11-slim-bookworm
ARG VARIANT=cpu
LABEL org.opencontainers.image.title="fcn-serve" \
      org.opencontainers.image.description="Segmentation with fully convolutional networks, as a microservice" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.vendor="fcn-serve contributors" \
      fcn-serve.variant="${VARIANT}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    FCN_HOST=0.0.0.0 \
    FCN_PORT=8000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fcn
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY LICENSE /app/
WORKDIR /app
# The base image comes without bytecode of the standard library: what a start imports of it is compiled once, here, and not at
# every start, which took 0.7 s.
RUN env --unset=PYTHONDONTWRITEBYTECODE python -c "import http.client, service.cli.serve, service.server"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client, because it reads no proxy variables.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['FCN_PORT']), timeout=2); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
