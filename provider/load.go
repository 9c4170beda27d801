package provider

import (
	"net/http"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

func (s *Server) reportLoad(w http.ResponseWriter, r *http.Request) error {
	var report function.LoadReport
	if err := web.Decode(w, r, s.MaxBody, &report); err != nil {
		return err
	}
	if report.Gateway == "" {
		return fault.Invalid.Errorf("gateway is missing: say who reports")
	}
	inFlight := make(map[function.Ref]map[string]int, len(report.Functions))
	for _, f := range report.Functions {
		inFlight[f.Ref] = f.Replicas
	}
	if s.Load != nil {
		s.Load.ReportLoad(report.Gateway, inFlight)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
