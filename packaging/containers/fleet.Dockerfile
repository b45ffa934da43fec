# The fleet service: docker build -f packaging/containers/fleet.Dockerfile -t wheeltapper-fleet .
FROM debian:12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3.11-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
COPY protocols protocols
COPY fleet fleet
RUN python3.11 -m venv /opt/wheeltapper \
    && /opt/wheeltapper/bin/pip install --no-cache-dir --no-compile -c constraints.txt ./protocols './fleet[postgres,oidc,history]'

FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3.11 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data wheeltapper-fleet && install -d -m 0750 -o 10001 -g 10001 /data
COPY --from=build /opt/wheeltapper /opt/wheeltapper
ENV PATH=/opt/wheeltapper/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    WHEELTAPPER_DATA_DIR=/data \
    WHEELTAPPER_DEVICE_HOST=0.0.0.0 \
    WHEELTAPPER_MQTT_HOST=0.0.0.0 \
    WHEELTAPPER_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8443 8883
ENTRYPOINT ["wheeltapper"]
CMD ["serve"]
