#!/usr/bin/env bash
# Build the images by docker, podman or buildah, and push them where PUSH says: see `make images`.
# The chart finds them there with image.registry=PUSH. The last lines say what was pushed, by digest.
#   PUSH=registry.example.com/team   where they go; empty = they stay here
#   IMAGES="control pod"             which of control, pod and vllm; empty = all
#   ENGINE=podman                    which program builds; empty = the first that is usable
#   BUILD_ARGS="--build-arg BASE=…"  what the Containerfiles' first lines offer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
push=${PUSH:-} engine=${ENGINE:-}
read -ra build_args <<<"${BUILD_ARGS:-}"

refuse() {
  printf '%s; %s; %s\n' "$@" >&2
  exit 2
}

usable() { # docker without its daemon builds nothing
  command -v "$1" >/dev/null && { [ "$1" != docker ] || docker info >/dev/null 2>&1; }
}

case $push in
*://*) refuse "images were to be pushed to $push" "a registry's name has no scheme" "leave out what stands before ://" ;;
*@* | */) refuse "images were to be pushed to $push" "it is taken for host, host:port or host/path" "write it so" ;;
esac
if [ -z "$engine" ]; then
  for candidate in docker podman buildah; do
    if usable "$candidate"; then
      engine=$candidate
      break
    fi
  done
  [ -n "$engine" ] || refuse "images were to be built" "neither docker with its daemon nor podman nor buildah is here" \
    "install one of them, such as podman"
elif ! usable "$engine"; then
  refuse "images were to be built by $engine" "it is not here, or its daemon does not answer" \
    "install or start it, or leave ENGINE away"
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
pushed=()
for name in ${IMAGES:-control pod vllm}; do
  image=${push:+$push/}kaitoflow/$name:$version
  echo "building $image by $engine" >&2
  "$engine" build --file "deployments/images/$name/Containerfile" --tag "$image" "${build_args[@]}" . >&2
  [ -n "$push" ] || continue
  echo "pushing $image" >&2
  if [ "$engine" = docker ]; then
    docker push "$image" >&2
    pushed+=("$(docker inspect --format '{{index .RepoDigests 0}}' "$image")")
  else
    digest=$(mktemp)
    "$engine" push --digestfile "$digest" "$image" >&2
    pushed+=("${image%:*}@$(cat "$digest")")
    rm "$digest"
  fi
done
[ ${#pushed[@]} = 0 ] || printf '%s\n' "${pushed[@]}"
