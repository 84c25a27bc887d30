"""One trial, seen from outside: started, watched, limited, judged, and cleaned up after."""
