"""The twistd commands of flux. Imports none of it: twistd reads this file on every start."""

from twisted.application.service import ServiceMaker

flux_all = ServiceMaker("flux", "flux.tap.flux_all", "Instant messaging, all in one process", "flux")
flux_status = ServiceMaker("flux-status", "flux.tap.flux_status", "The status service of flux alone", "flux-status")
flux_chat = ServiceMaker("flux-chat", "flux.tap.flux_chat", "A chat server of flux alone", "flux-chat")
flux_gate = ServiceMaker("flux-gate", "flux.tap.flux_gate", "The HTTP gate of flux alone", "flux-gate")
